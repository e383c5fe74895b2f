package corpus

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"narbor/store"
)

const cacheInfo = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"

// A builder makes a corpus in a temporary directory, which is renamed when the corpus is complete.
type builder struct {
	spec     Spec
	dir      string // temporary
	progress func(string)
}

// build makes the corpus of spec in dir. The paths are those that add adds; it returns the one that refers to all
// others.
func build(ctx context.Context, spec Spec, dir string, progress func(string), add func(*builder) (store.Path, error)) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), spec.Name+"-building-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	b := &builder{spec: spec, dir: tmp, progress: progress}
	for _, sub := range []string{"corpus/cache/nar", "debs", "unpacked", "home"} {
		if err := os.MkdirAll(filepath.Join(tmp, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "corpus/cache/nix-cache-info"), []byte(cacheInfo), 0o644); err != nil {
		return err
	}
	top, err := add(b)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, top); err != nil {
		return err
	}
	if _, err := load(spec, filepath.Join(tmp, "corpus")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "corpus"), dir)
}

// addAll adds the packages and the path that refers to them, which it returns.
func (b *builder) addAll(ctx context.Context) (store.Path, error) {
	refs, err := b.addPackages(ctx)
	if err != nil {
		return store.Path{}, err
	}
	return b.addTop(ctx, refs)
}

// addPackages adds the closure of the seeds and returns the paths of these.
func (b *builder) addPackages(ctx context.Context) ([]store.Path, error) {
	if len(b.spec.Seeds) == 0 {
		return nil, nil
	}
	if lists, err := filepath.Glob("/var/lib/apt/lists/*_Packages*"); err != nil || len(lists) == 0 {
		b.progress("apt-get update")
		if _, err := command(ctx, "", "apt-get", "update"); err != nil {
			return nil, err
		}
	}
	packages, err := closure(ctx, b.spec)
	if err != nil {
		return nil, err
	}
	b.progress(fmt.Sprintf("downloading %d Debian packages", len(packages)))
	files, err := download(ctx, filepath.Join(b.dir, "debs"), packages)
	if err != nil {
		return nil, err
	}
	b.progress("unpacking and signing them")
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for _, d := range packages {
		g.Go(func() error {
			return b.add(ctx, d.path, d.refs, func(dir string) error {
				if _, err := command(ctx, "", "dpkg-deb", "--extract", files[d], dir); err != nil {
					return err
				}
				return os.Remove(files[d])
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var seeds []store.Path
	for _, d := range packages {
		if slices.Contains(b.spec.Seeds, d.name) {
			seeds = append(seeds, d.path)
		}
	}
	return seeds, nil
}

// addTop adds the path that refers to all others. It contains the noise of the spec, if any.
func (b *builder) addTop(ctx context.Context, refs []store.Path) (store.Path, error) {
	id := sha256.Sum256(fmt.Appendf(nil, "narbor corpus %s top %v %d", version, refs, b.spec.Random+b.spec.Mixed))
	top, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(id[:20]))) + "-" + topName(b.spec))
	if err != nil {
		return store.Path{}, err
	}
	return top, b.add(ctx, top, store.SortPaths(refs), func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if b.spec.Mixed > 0 {
			return b.mix(ctx, filepath.Join(dir, "mixed"))
		}
		if b.spec.Random > 0 {
			return write(filepath.Join(dir, "noise"), rand.NewChaCha8(id), b.spec.Random)
		}
		return nil
	})
}

// mix writes a file of archives of [Medium]. Repeated archives are too far apart for any compressor's window.
func (b *builder) mix(ctx context.Context, name string) error {
	c, err := Open(ctx, Medium(), b.progress)
	if err != nil {
		return err
	}
	var parts []io.Reader
	for n := int64(0); n < b.spec.Mixed; {
		for _, info := range c.Infos {
			f, err := os.Open(c.nar(info))
			if err != nil {
				return err
			}
			defer f.Close()
			parts = append(parts, f)
			n += info.NarSize
		}
	}
	return write(name, io.MultiReader(parts...), b.spec.Mixed)
}

func write(name string, r io.Reader, n int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, r, n)
	return errors.Join(err, f.Close())
}

// add makes a directory with unpack, and of that a signed archive for path. The directory names the references in their
// order.
func (b *builder) add(ctx context.Context, path store.Path, refs []store.Path, unpack func(dir string) error) error {
	dir := filepath.Join(b.dir, "unpacked", path.Base())
	defer os.RemoveAll(dir)
	if err := unpack(dir); err != nil {
		return fmt.Errorf("%s: %w", path.Name(), err)
	}
	info := store.Info{Path: path, References: store.SortPaths(slices.Clone(refs))}
	// Nix finds references by their hash parts in the contents.
	var text strings.Builder
	fmt.Fprintln(&text, path.Name())
	for _, r := range refs {
		fmt.Fprintln(&text, r)
	}
	if strings.HasPrefix(path.Name(), "lib") { // as in real closures, some paths refer to themselves
		fmt.Fprintln(&text, path)
		info.References = store.SortPaths(append(info.References, path))
	}
	if err := os.MkdirAll(filepath.Join(dir, "nix-support"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "nix-support/references"), []byte(text.String()), 0o644); err != nil {
		return err
	}
	if err := b.dump(ctx, dir, &info); err != nil {
		return fmt.Errorf("%s: %w", path.Name(), err)
	}
	info.Signatures = []string{Sign(info)}
	url := "nar/" + info.NarHash.Base32() + ".nar"
	narinfo := info.String() + fmt.Sprintf("URL: %s\nCompression: none\nFileHash: %s\nFileSize: %d\n", url, info.NarHash, info.NarSize)
	return os.WriteFile(filepath.Join(b.dir, "corpus/cache", string(path.HashPart())+".narinfo"), []byte(narinfo), 0o644)
}

// dump lets Nix write the archive of dir into the cache, and sets info's NarHash and NarSize.
func (b *builder) dump(ctx context.Context, dir string, info *store.Info) error {
	nar := filepath.Join(b.dir, "corpus/cache/nar")
	tmp, err := os.Create(filepath.Join(nar, info.Path.Base()+".tmp"))
	if err != nil {
		return err
	}
	defer tmp.Close()
	cmd := exec.CommandContext(ctx, "nix-store", "--dump", dir)
	cmd.Env = b.nixEnv()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	sum := sha256.New()
	info.NarSize, err = io.Copy(io.MultiWriter(tmp, sum), bufio.NewReaderSize(out, 1<<20))
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("nix-store --dump: %w\n%s", err, stderr.String())
	}
	info.NarHash = store.Hash(sum.Sum(nil))
	return os.Rename(tmp.Name(), filepath.Join(nar, info.NarHash.Base32()+".nar"))
}

// nixEnv returns an environment in which Nix does not use this computer's store and settings.
func (b *builder) nixEnv() []string {
	home := filepath.Join(b.dir, "home")
	return append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home+"/cache", "XDG_CONFIG_HOME="+home+"/config",
		"NIX_CONF_DIR="+home+"/etc", "NIX_STATE_DIR="+home+"/state", "NIX_LOG_DIR="+home+"/log", "NIX_REMOTE=",
		"NIX_CONFIG=experimental-features = nix-command\nbuild-users-group =\ntrusted-public-keys = "+PublicKey())
}

// fill lets Nix fetch the closure of top, with all checks, into a directory that can become a machine's /nix.
func (b *builder) fill(ctx context.Context, top store.Path) error {
	b.progress("letting Nix check and unpack it")
	root := filepath.Join(b.dir, "root")
	cmd := exec.CommandContext(ctx, "nix", "copy", "--from", "file://"+filepath.Join(b.dir, "corpus/cache"),
		"--to", "local?root="+root, top.String())
	cmd.Env = b.nixEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nix copy: %w\n%s", err, out)
	}
	return os.Rename(filepath.Join(root, "nix"), filepath.Join(b.dir, "corpus/nix"))
}
