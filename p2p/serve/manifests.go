package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"

	"narbor/store"
)

// maxManifests and maxManifestFiles bound the directory of manifests. They take 32 bytes for each block: this is half a
// TB of NARs.
const maxManifests, maxManifestFiles = 64 << 20, 4096

// manifests keeps the digests of the blocks of NARs in a directory, because computing them takes a whole read. There is
// a file for each NAR, named by its NarHash in hexadecimal: the digests, and then the SHA-256 of NarHash and digests. A
// file that is not whole counts as none. The methods may be called concurrently, and on nil, which keeps nothing.
//
// These are files and no database: bbolt, damaged at random, took the process down with it.
type manifests struct {
	dir *os.Root

	mu    sync.Mutex // guards the rest, and writes to the directory
	files int
	used  int64
}

// openManifests opens the directory, which it makes if need be.
func openManifests(dir string) (*manifests, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	m := &manifests{dir: root}
	if err := m.each(func(f os.FileInfo) error {
		m.files++
		m.used += f.Size()
		return nil
	}); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return m, nil
}

func (m *manifests) each(do func(os.FileInfo) error) error {
	d, err := m.dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	files, err := d.Readdir(-1)
	for _, f := range files {
		if f.Mode().IsRegular() && err == nil {
			err = do(f)
		}
	}
	return err
}

func (m *manifests) close() error {
	if m == nil {
		return nil
	}
	return m.dir.Close()
}

// manifestSum is the end of a file of manifests.
func manifestSum(nar store.Hash, digests []byte) [sha256.Size]byte {
	return sha256.Sum256(append(nar[:], digests...))
}

// get returns the digests of a NAR's blocks, one after the other, or nil.
func (m *manifests) get(nar store.Hash, blocks int) []byte {
	if m == nil {
		return nil
	}
	f, err := m.dir.Open(hex.EncodeToString(nar[:]))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, blocks*len(nar)+sha256.Size+1)
	n, _ := f.ReadAt(b, 0)
	if n != len(b)-1 {
		return nil
	}
	digests := b[:n-sha256.Size]
	if sum := manifestSum(nar, digests); !bytes.Equal(sum[:], b[len(digests):n]) {
		return nil
	}
	return digests
}

// put keeps the digests of a NAR's blocks. When that would be too much, it forgets all others first.
func (m *manifests) put(nar store.Hash, digests []byte) error {
	sum := manifestSum(nar, digests)
	size := int64(len(digests) + len(sum))
	if m == nil || size > maxManifests {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files >= maxManifestFiles || m.used+size > maxManifests {
		if err := m.each(func(f os.FileInfo) error { return m.dir.Remove(f.Name()) }); err != nil {
			return fmt.Errorf("manifests: %w", err)
		}
		m.files, m.used = 0, 0
	}
	m.files++
	m.used += size
	return m.dir.WriteFile(hex.EncodeToString(nar[:]), append(digests, sum[:]...), 0o600)
}
