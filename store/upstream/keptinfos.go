package upstream

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"narbor/store"
)

const (
	// maxKeptInfos and maxKeptBytes bound a directory of narinfos: some systems with all that they were built from. A
	// file takes 4 KiB of most disks, so 64 MiB at worst.
	maxKeptInfos, maxKeptBytes = 16 << 10, 32 << 20
	// maxKeptInfo is the longest narinfo that is kept: those of whole systems can be asked for.
	maxKeptInfo = 64 << 10
	// touchAfter is how exactly it is known across restarts when a narinfo was used last.
	touchAfter = 24 * time.Hour
)

// keptInfos keeps narinfos in a directory: a file for each, named by its hash part, that holds the text and last the
// SHA-256 of hash part and text. The least recently used files make room. A file that is not whole counts as none.
// Its methods may be called concurrently, and on nil, which keeps nothing.
type keptInfos struct {
	dir *os.Root

	mu    sync.Mutex // guards the rest, and the files
	files *lru.LRU[store.HashPart, keptInfo]
	bytes int64
}

type keptInfo struct {
	size int64
	used time.Time // the file's, when it was looked at
}

// openKeptInfos opens the directory, which it makes if need be.
func openKeptInfos(dir string) (*keptInfos, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	k := &keptInfos{dir: root}
	if k.files, err = lru.NewLRU(maxKeptInfos, func(hp store.HashPart, i keptInfo) {
		k.bytes -= i.size
		_ = root.Remove(string(hp)) // if it stays, the next start finds it
	}); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := k.list(); err != nil {
		return nil, errors.Join(fmt.Errorf("kept narinfos: %w", err), root.Close())
	}
	return k, nil
}

// list adds the files in the directory, the least recently used first.
func (k *keptInfos) list() error {
	d, err := k.dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	found, err := d.Readdir(-1)
	slices.SortFunc(found, func(a, b os.FileInfo) int { return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano()) })
	for _, f := range found {
		if hp, err := store.ParseHashPart(f.Name()); err == nil && f.Mode().IsRegular() {
			k.add(hp, keptInfo{f.Size(), f.ModTime()})
		}
	}
	return err
}

// add counts a file, and removes others for which there is no room any more. The caller holds mu.
func (k *keptInfos) add(hp store.HashPart, i keptInfo) {
	if old, ok := k.files.Peek(hp); ok {
		k.bytes -= old.size
	}
	k.bytes += i.size
	k.files.Add(hp, i)
	for k.bytes > maxKeptBytes {
		k.files.RemoveOldest()
	}
}

func keptSum(hp store.HashPart, text []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(hp), text...))
}

func (k *keptInfos) get(hp store.HashPart) (string, bool) {
	if k == nil {
		return "", false
	}
	k.mu.Lock()
	i, ok := k.files.Get(hp)
	if now := time.Now(); ok && now.Sub(i.used) > touchAfter {
		_ = k.dir.Chtimes(string(hp), now, now)
		i.used = now
		k.add(hp, i)
	}
	k.mu.Unlock()
	if !ok {
		return "", false
	}
	text, err := k.read(hp)
	if err != nil {
		k.forget(hp)
	}
	return text, err == nil
}

func (k *keptInfos) read(hp store.HashPart) (string, error) {
	f, err := k.dir.Open(string(hp))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeptInfo+sha256.Size+1))
	if err != nil {
		return "", err
	}
	n := len(b) - sha256.Size
	if n < 0 {
		return "", store.ErrCorrupt
	}
	if sum := keptSum(hp, b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return "", store.ErrCorrupt
	}
	return string(b[:n]), nil
}

func (k *keptInfos) put(hp store.HashPart, text string) error {
	if k == nil || len(text) > maxKeptInfo {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files.Contains(hp) {
		return nil
	}
	sum := keptSum(hp, []byte(text))
	b := append([]byte(text), sum[:]...)
	if err := k.dir.WriteFile(string(hp), b, 0o600); err != nil {
		_ = k.dir.Remove(string(hp))
		return fmt.Errorf("kept narinfos: %w", err)
	}
	k.add(hp, keptInfo{int64(len(b)), time.Now()})
	return nil
}

func (k *keptInfos) forget(hp store.HashPart) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files.Remove(hp)
}

// close gives the directory free.
func (k *keptInfos) close() error {
	if k == nil {
		return nil
	}
	return k.dir.Close()
}
