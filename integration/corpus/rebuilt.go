package corpus

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"narbor/store"
)

const (
	// changedOf is the number of paths of which one has other content after a mass rebuild, and firstChanged the place
	// of the first such path when they are sorted by size: the largest one is half of a corpus, and stays.
	changedOf, firstChanged = 10, 1
	// sameSizeOf is the number of changed paths of which one keeps its NarSize.
	sameSizeOf = 4
)

// OpenRebuilt returns two generations of a corpus: itself, and its closure after a mass rebuild. Each path of the
// second one has the name of one of the first, and another hash part. A tenth of them have other content, and the
// others differ in nothing but the store paths that they contain. It is built and kept as by [Open].
func OpenRebuilt(ctx context.Context, spec Spec, progress func(string)) (first, second *Corpus, err error) {
	if first, err = Open(ctx, spec, progress); err != nil {
		return nil, nil, err
	}
	second, err = open(ctx, spec, spec.Name+"-rebuilt", progress, func(b *builder) (store.Path, error) { return b.addRebuilt(ctx, first) })
	return first, second, err
}

// Changed returns the paths of a second generation that have other content than those of the first.
func (c *Corpus) Changed(first *Corpus) (infos []store.Info) {
	isChanged := map[store.Path]bool{}
	for p := range changes(first) {
		isChanged[rebuilt(p)] = true
	}
	return slices.DeleteFunc(slices.Clone(c.Infos), func(i store.Info) bool { return !isChanged[i.Path] })
}

// changes returns the paths of a first generation that get other content, and whether it is longer.
func changes(first *Corpus) map[store.Path]bool {
	bySize := slices.SortedFunc(slices.Values(first.Infos), func(a, b store.Info) int {
		return cmp.Or(cmp.Compare(b.NarSize, a.NarSize), strings.Compare(a.Path.Base(), b.Path.Base()))
	})
	longer := map[store.Path]bool{}
	for i := firstChanged; i < len(bySize); i += changedOf {
		longer[bySize[i].Path] = len(longer)%sameSizeOf != 1
	}
	return longer
}

// rebuilt returns the path of the second generation in the place of one of the first.
func rebuilt(p store.Path) store.Path {
	sum := sha256.Sum256([]byte("narbor corpus " + version + " rebuilt " + p.Base()))
	n, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(sum[:20]))) + "-" + p.Name())
	if err != nil { // not for the name of a path
		panic(err)
	}
	return n
}

// addRebuilt adds the second generation and returns its path that refers to all others.
func (b *builder) addRebuilt(ctx context.Context, first *Corpus) (store.Path, error) {
	b.progress("rebuilding the paths under new names")
	changed := changes(first)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for _, old := range first.Infos {
		g.Go(func() error {
			var refs []store.Path // in the order of the old ones, for that is the order in the contents
			for _, r := range old.References {
				if r != old.Path {
					refs = append(refs, rebuilt(r))
				}
			}
			return b.add(ctx, rebuilt(old.Path), refs, func(dir string) error {
				if err := b.restore(ctx, first.nar(old), dir); err != nil {
					return err
				}
				longer, ok := changed[old.Path]
				if !ok {
					return nil
				}
				return alter(dir, longer)
			})
		})
	}
	return rebuilt(first.Top), g.Wait()
}

// restore lets Nix unpack an archive.
func (b *builder) restore(ctx context.Context, nar, dir string) error {
	f, err := os.Open(nar)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.CommandContext(ctx, "nix-store", "--restore", dir)
	cmd.Env = b.nixEnv()
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nix-store --restore: %w\n%s", err, out)
	}
	return nil
}

// alter changes each byte of all files of a directory, so that they are as compressible as before. If longer is true,
// it adds a file.
func alter(dir string, longer bool) error {
	if longer {
		if err := os.WriteFile(filepath.Join(dir, "changes"), []byte("another version\n"), 0o644); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		contents, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for i := range contents {
			contents[i]++
		}
		return os.WriteFile(name, contents, 0o644)
	})
}
