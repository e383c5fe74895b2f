package nixstore

import (
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"narbor/store"
)

const (
	// namesAfter is how many questions about absent paths, with nothing new in the store, it takes for its names to
	// be read: that costs about as much as so many questions to the daemon if the store has 3,000 paths.
	namesAfter = 32
	// namesSettle is for how long the directory must not have changed: of two changes within one tick of a file
	// system's clock, which may be as coarse as this, the second would not show.
	namesSettle = 2 * time.Second
	// namesFresh bounds what a file system could hide that does not keep a directory's time as POSIX wants it: one
	// laid over another, when the lower one is changed.
	namesFresh = time.Minute
)

// storeNames knows which hash parts no file in the store directory begins with, so that the daemon need not be asked
// about them: a path without a file cannot be read, valid or not. Each new file changes the time of the directory, and
// then the names that were read before are no longer used.
type storeNames struct {
	dir  string
	seed maphash.Seed

	mu     sync.Mutex // guards the rest
	time   time.Time  // the directory's
	misses int        // questions about absent paths since it has had that time
	read   time.Time  // when parts was read at that time; zero if it was not
	parts  []uint64   // hashes of the hash parts, sorted
}

func newStoreNames(dir string) *storeNames {
	return &storeNames{dir: dir, seed: maphash.MakeSeed()}
}

// lack says whether it is certain that no path with that hash part can be read.
func (s *storeNames) lack(hp store.HashPart) bool {
	fi, err := os.Stat(s.dir)
	if err != nil || !s.mu.TryLock() { // another call is reading the names, and the daemon is quicker
		return false
	}
	defer s.mu.Unlock()
	now := time.Now()
	if changed := fi.ModTime(); !changed.Equal(s.time) {
		s.time, s.misses, s.read, s.parts = changed, 0, time.Time{}, nil
	}
	if s.read.IsZero() || now.Sub(s.read) > namesFresh {
		if s.misses < namesAfter || now.Sub(s.time) < namesSettle || !s.readAll(now) {
			return false
		}
	}
	_, found := slices.BinarySearch(s.parts, maphash.String(s.seed, string(hp)))
	return !found
}

// missed counts a question about an absent path that the daemon has answered.
func (s *storeNames) missed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.misses++
}

// readAll reads all names, and returns false if the directory cannot be read, or has changed meanwhile.
func (s *storeNames) readAll(now time.Time) bool {
	s.misses, s.read, s.parts = 0, time.Time{}, s.parts[:0]
	dir, err := os.Open(s.dir)
	if err != nil {
		return false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, name := range names {
		if part, _, ok := strings.Cut(name, "-"); ok {
			s.parts = append(s.parts, maphash.String(s.seed, part))
		}
	}
	if fi, err := dir.Stat(); err != nil || !fi.ModTime().Equal(s.time) {
		return false
	}
	slices.Sort(s.parts)
	s.read = now
	return true
}
