// Package bincache is a directory in the layout of a Nix binary cache as a source of store paths, and the place to
// which verified paths are exported.
//
// The directory may appear and vanish at any time, as a disk does that is plugged in. Nothing outside of it is read. A
// compressed NAR is unpacked once for all that request it at the same time, into a file without a name, since
// neighbours read archives at any offset. A [Cache] has no goroutine and nothing to close; all methods may be called
// concurrently.
package bincache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"narbor/store"
	"narbor/store/nar"
)

const (
	cacheInfoName = "nix-cache-info"

	// maxCacheInfo bounds the nix-cache-info file, which has three short lines.
	maxCacheInfo = 64 << 10

	// cacheTemp is the directory of files that are being written. A file that was not modified for leftoverAge was left
	// by a crash: even a NAR that comes over a slow link grows all the time.
	cacheTemp   = ".tmp"
	leftoverAge = 24 * time.Hour
)

// A Cache is a directory in the layout of a Nix binary cache, as `nix copy --to file://DIR` makes it, and implements
// [store.Source]. NARs are uncompressed or compressed by xz or zstd; a path with another compression counts as not
// found. Nothing outside of the directory is ever read. The directory need not exist, as when a disk is not plugged in:
// then it has no path.
type Cache struct {
	dir    string
	unpack *unpacker
	swept  sync.Once // leftovers are deleted before the first Add
}

// Open returns the cache in dir. NARs that are compressed there are unpacked into files without a name in
// spoolDir. It fails if dir is the cache of another store directory, or no directory.
func Open(dir, spoolDir string) (*Cache, error) {
	c := &Cache{dir: dir, unpack: newUnpacker(spoolDir)}
	root, err := c.root()
	if errors.Is(err, store.ErrNotFound) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	text, err := c.readFile(root, cacheInfoName, maxCacheInfo)
	if errors.Is(err, store.ErrNotFound) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "StoreDir:"); ok && strings.TrimSpace(v) != store.Dir {
			return nil, fmt.Errorf("cache %s: it is of store %.80q, not %s", dir, strings.TrimSpace(v), store.Dir)
		}
	}
	return c, nil
}

// root opens the directory anew each time, so that a disk mounted there later is seen.
func (c *Cache) root() (*os.Root, error) {
	root, err := os.OpenRoot(c.dir)
	return root, c.fail(err)
}

// fail adds [store.ErrNotFound] to an error that says that a file does not exist, and the cache to every error.
func (c *Cache) fail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cache %s: %w: %w", c.dir, store.ErrNotFound, err)
	}
	return fmt.Errorf("cache %s: %w", c.dir, err)
}

// openFile opens a regular file and never waits for the other end of a pipe.
func (c *Cache) openFile(root *os.Root, name string) (*os.File, os.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, c.fail(err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, nil, c.fail(err)
	}
	return f, st, nil
}

// readFile returns the content of a file of at most limit bytes.
func (c *Cache) readFile(root *os.Root, name string, limit int64) (string, error) {
	f, _, err := c.openFile(root, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return string(b), c.fail(err)
}

// A cachePath is what a narinfo file says: the claim, and where its NAR is.
type cachePath struct {
	info store.Info
	nar.Archive
}

// narinfo reads the file for a hash part. The error wraps ErrNotFound if there is none, or if it names a NAR that
// narbor does not reach or cannot unpack.
func (c *Cache) narinfo(root *os.Root, hp store.HashPart) (p cachePath, err error) {
	if hp, err = store.ParseHashPart(string(hp)); err != nil { // it becomes part of a file name
		return p, fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	name := string(hp) + ".narinfo"
	text, err := c.readFile(root, name, store.MaxInfoLen)
	if err != nil {
		return p, err
	}
	if p.info, p.Archive, err = nar.ParseNarinfo(hp, text); err != nil {
		return p, fmt.Errorf("cache %s: %s: %w", c.dir, name, err)
	}
	if !filepath.IsLocal(p.URL) || path.Clean(p.URL) != p.URL {
		return p, fmt.Errorf("cache %s: %s: %w: its URL %.80q is not a file of this cache", c.dir, name, store.ErrNotFound, p.URL)
	}
	if !nar.Unpackable(p.Compression) {
		return p, fmt.Errorf("cache %s: %s: %w: %w: compression %.40q, and not none, xz or zstd",
			c.dir, name, store.ErrNotFound, store.ErrUnreadable, p.Compression)
	}
	return p, nil
}

// Info implements [store.Source]. A path without its NAR is not found either.
func (c *Cache) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	_ = c.unpack.trim() // here, because neighbours ask all the time
	root, err := c.root()
	if err != nil {
		return store.Info{}, err
	}
	defer root.Close()
	p, err := c.narinfo(root, hp)
	if err != nil {
		return store.Info{}, err
	}
	st, err := root.Stat(p.URL)
	if err != nil {
		return store.Info{}, c.fail(err)
	}
	return p.info, c.checkSize(p, st.Size())
}

// checkSize fails if a NAR's file cannot be what its narinfo says.
func (c *Cache) checkSize(p cachePath, size int64) error {
	if p.Compression == "none" && size != p.info.NarSize {
		return fmt.Errorf("cache %s: %s: %w: %d bytes, not %d", c.dir, p.URL, store.ErrCorrupt, size, p.info.NarSize)
	}
	if size > nar.MaxPacked(p.info.NarSize) {
		return fmt.Errorf("cache %s: %s: %w: %d bytes, too many for a NAR of %d", c.dir, p.URL, store.ErrCorrupt, size, p.info.NarSize)
	}
	return nil
}

// Has says whether the path with that hash part is in the cache, NAR and all.
func (c *Cache) Has(hp store.HashPart) bool {
	_, err := c.Info(context.Background(), hp)
	return err == nil
}

// NAR implements [store.Source]. A compressed NAR is unpacked as a whole before NAR returns.
func (c *Cache) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := c.root()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	p, err := c.narinfo(root, info.Path.HashPart())
	if err != nil {
		return nil, err
	}
	if p.info.NarHash != info.NarHash {
		return nil, fmt.Errorf("cache %s: %s: %w: it has another NarHash now", c.dir, info.Path, store.ErrNotFound)
	}
	if p.info.NarSize != info.NarSize {
		return nil, fmt.Errorf("cache %s: %s: %w: NarSize is %d, not %d", c.dir, info.Path, store.ErrCorrupt, p.info.NarSize, info.NarSize)
	}
	f, st, err := c.openFile(root, p.URL)
	if err != nil {
		return nil, err
	}
	if err := c.checkSize(p, st.Size()); err != nil {
		f.Close()
		return nil, err
	}
	if p.Compression == "none" {
		return &fileNAR{File: f, size: info.NarSize}, nil
	}
	defer f.Close()
	nar, err := c.unpack.open(ctx, f, packedFile{p.URL, st.Size(), st.ModTime().UnixNano(), p.Compression, info.NarSize})
	if err != nil {
		return nil, fmt.Errorf("cache %s: %s: %w", c.dir, p.URL, err)
	}
	return nar, nil
}

// Add puts a path that the caller has verified into the cache: its NAR, uncompressed, then its narinfo, each of which
// appears whole or not at all. The error wraps [store.ErrCorrupt] if nar is not what info says; then nothing is added.
func (c *Cache) Add(info store.Info, nar io.Reader) error {
	if info.Path.IsZero() {
		return errors.New("cache: no path to add")
	}
	name := path.Join("nar", info.NarHash.Base32()+".nar")
	text := info.Narinfo(name)
	if parsed, err := store.ParseInfo(text); err != nil || parsed.String() != info.String() {
		return fmt.Errorf("cache %s: %s cannot be written as narinfo: %w", c.dir, info.Path, errors.Join(store.ErrCorrupt, err))
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "nar"), 0o777); err != nil {
		return c.fail(err)
	}
	root, err := c.root()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(cacheTemp, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return c.fail(err)
	}
	c.swept.Do(func() { sweep(root) })
	if _, err := root.Stat(cacheInfoName); errors.Is(err, fs.ErrNotExist) {
		text := "StoreDir: " + store.Dir + "\nWantMassQuery: 1\nPriority: 30\n"
		if err := c.write(root, cacheInfoName, strings.NewReader(text), nil); err != nil {
			return err
		}
	}
	if err := c.write(root, name, nar, &info); err != nil {
		return err
	}
	return c.write(root, string(info.Path.HashPart())+".narinfo", strings.NewReader(text), nil)
}

// sweep deletes files that a crash has left. Errors are ignored: the next sweep tries again.
func sweep(root *os.Root) {
	entries, _ := fs.ReadDir(root.FS(), cacheTemp)
	for _, e := range entries {
		if st, err := e.Info(); err == nil && time.Since(st.ModTime()) > leftoverAge {
			_ = root.Remove(path.Join(cacheTemp, e.Name()))
		}
	}
}

// write makes or replaces a file, durably and at once; with info, only if r yields its NAR.
func (c *Cache) write(root *os.Root, name string, r io.Reader, info *store.Info) (err error) {
	temp := path.Join(cacheTemp, rand.Text())
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return c.fail(err)
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = root.Remove(temp)
			err = c.fail(err)
		}
	}()
	if info == nil {
		_, err = io.Copy(f, r)
	} else {
		err = copyNAR(f, r, *info)
	}
	if err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = root.Rename(temp, name); err != nil {
		return err
	}
	syncDir(root, path.Dir(name))
	return nil
}

// syncDir makes a rename last. The file is in its place already, so what a file system cannot do is no error.
func syncDir(root *os.Root, dir string) {
	if d, err := root.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}

// copyNAR copies a NAR and fails if it is not info's.
func copyNAR(w io.Writer, r io.Reader, info store.Info) error {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, info.NarSize+1))
	if err != nil {
		return err
	}
	if got := store.Hash(h.Sum(nil)); n != info.NarSize || got != info.NarHash {
		return fmt.Errorf("nar of %s: %w: %d bytes or more that hash to %s, want %d and %s",
			info.Path, store.ErrCorrupt, n, got, info.NarSize, info.NarHash)
	}
	return nil
}
