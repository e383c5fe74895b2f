package nixstore

import (
	"cmp"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"narbor/store"
)

const (
	// indexRest times the number of names is the least interval between two readings of a changing store. Reading a
	// name takes 1 to 3 µs, so the index takes at most 0.3 % of a processor, and is at most 100 s old in a store of
	// 100,000 paths. Old versions have been there for longer than that before an update.
	indexRest = time.Millisecond
	// maxNamesakes bounds the paths of one name that are returned.
	maxNamesakes = 64
)

// nameIndex finds the paths of a name among the files of the store directory. It takes 32 bytes for each store path.
// The directory is read at the first use, and again after it has changed. Its methods may be called concurrently.
type nameIndex struct {
	dir  string
	seed maphash.Seed

	mu      sync.Mutex    // guards the rest
	time    time.Time     // the directory's modification time when it was read
	read    time.Time     // zero if it was not read
	rest    time.Duration // until it may be read again
	entries []nameEntry
}

// A nameEntry is a path: the hash of its name, and its hash part.
type nameEntry struct {
	name uint64
	part [20]byte
}

func newNameIndex(dir string) *nameIndex { return &nameIndex{dir: dir, seed: maphash.MakeSeed()} }

// find returns the hash parts of the paths with a name. Some of them may have another name, or not be valid.
func (x *nameIndex) find(name string) (parts []store.HashPart) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.update(time.Now())
	h := maphash.String(x.seed, name)
	i, _ := slices.BinarySearchFunc(x.entries, h, func(e nameEntry, h uint64) int { return cmp.Compare(e.name, h) })
	for _, e := range x.entries[i:] {
		if e.name != h || len(parts) == maxNamesakes {
			break
		}
		parts = append(parts, store.HashPartFromBytes(e.part))
	}
	return parts
}

// update reads the directory if it has not been read yet, or has changed since. If it cannot be read, the index stays.
func (x *nameIndex) update(now time.Time) {
	fi, err := os.Stat(x.dir)
	if err != nil || !x.read.IsZero() && (fi.ModTime().Equal(x.time) || now.Sub(x.read) < x.rest) {
		return
	}
	dir, err := os.Open(x.dir)
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	x.time, x.read, x.entries = fi.ModTime(), now, make([]nameEntry, 0, len(names))
	for _, name := range names {
		if strings.HasSuffix(name, ".drv") {
			continue
		}
		if p, err := store.ParsePathName(name); err == nil {
			x.entries = append(x.entries, nameEntry{maphash.String(x.seed, p.Name()), p.HashPart().Bytes()})
		}
	}
	slices.SortFunc(x.entries, func(a, b nameEntry) int { return cmp.Compare(a.name, b.name) })
	x.rest = time.Duration(len(names)) * indexRest
}
