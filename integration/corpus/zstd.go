package corpus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"narbor/store"
)

// nar is the file of an archive in the cache.
func (c *Corpus) nar(info store.Info) string {
	return filepath.Join(c.Cache, "nar", info.NarHash.Base32()+".nar")
}

// Zstd returns a copy of the cache with archives that are compressed by zstd as by `nix copy`. The copy is made once
// and kept beside the cache.
func (c *Corpus) Zstd(ctx context.Context, progress func(string)) (dir string, err error) {
	dir = c.Cache + "-zstd"
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	progress("compressing the cache by zstd")
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "zstd-building-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	err = errors.Join(os.Chmod(tmp, 0o755), os.Mkdir(filepath.Join(tmp, "nar"), 0o755),
		os.WriteFile(filepath.Join(tmp, "nix-cache-info"), []byte(cacheInfo), 0o644))
	if err != nil {
		return "", err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for _, info := range c.Infos {
		g.Go(func() error { return c.compress(ctx, info, tmp) })
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}

// compress writes the archive and the narinfo of one path into dir.
func (c *Corpus) compress(ctx context.Context, info store.Info, dir string) error {
	url := "nar/" + info.NarHash.Base32() + ".nar.zst"
	name := filepath.Join(dir, string(info.Path.HashPart())+".tmp") // two paths may have one archive
	if _, err := command(ctx, "", "zstd", "-q", "-3", "-o", name, c.nar(info)); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if err := os.Rename(name, filepath.Join(dir, url)); err != nil {
		return err
	}
	text := info.String() + fmt.Sprintf("URL: %s\nCompression: zstd\nFileHash: %s\nFileSize: %d\n", url, store.Hash(sum.Sum(nil)), size)
	return os.WriteFile(filepath.Join(dir, string(info.Path.HashPart())+".narinfo"), []byte(text), 0o644)
}
