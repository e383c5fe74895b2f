// Package spool keeps NARs on disk between their arrival and Nix's request, for one process at a time; the next
// continues its drafts.
//
// A NAR enters as a [Draft], which other peers may read from before it is whole, and becomes readable as a [NAR], which
// exists only if all of its bytes were hashed, their SHA-256 was the expected one, and the structure of the archive was
// found right. The spool leaves some disk space free and stays below a cap; drafts that were given up, and NARs that
// nothing holds, make room.
// There is no goroutine but the hashing within a call. All methods may be called concurrently.
//
// # Files
//
// Each NAR, whole or not, is a file HASH-SIZE-NUMBER.nar: its NarHash in Nix's base 32, its NarSize, and a number that
// makes the name unique. The file has the NAR, and behind it a checksum for each of its blocks of [store.BlockSize]: 4
// bytes, the CRC-32C of the block in little-endian order, or 1 if that is 0; 0 if the block is not there. Nothing says
// that a NAR is whole or right: a later process takes every file as a draft, reads the blocks with the right checksum,
// and hashes the NAR. So the process may be killed, or the machine lose power, at any moment, and nothing is synced to
// the disk.
package spool

import (
	"container/list"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

const (
	// idleTime is how long a verified NAR waits for a request. Nix requests a NAR seconds after its narinfo; a request
	// later than this costs a second fetch over the LAN, which is cheap.
	idleTime = 10 * time.Minute

	// keptTime is how long a file stays that no request goes on with: until the next day's build.
	keptTime = 24 * time.Hour
	// maxKept bounds the number of those files, which all are opened at the start. Nix fetches 16 NARs at once, and
	// narbor some more ahead of it.
	maxKept = 256

	// sizeUnit is what sizes are rounded up to in accounts: a small NAR takes a whole block of the file system.
	sizeUnit = 4096
)

// Config says where a spool is and how large it may be.
type Config struct {
	Dir      string // required; created if absent, and for this spool alone
	MaxBytes int64  // cap on its content, half-received NARs included; 0 is 4 GiB
	MinFree  int64  // bytes that the spool leaves free on the disk; 0 is 2 GiB, negative is no floor
}

// A Spool keeps NARs on disk between their arrival and Nix's request. A NAR enters as a [Draft] and becomes readable
// as a [NAR] once its hash is right. A NAR without open handles is deleted when its space is needed, the least
// recently held first, after 10 minutes, or at once if Nix has had it. The files of drafts that were given up are
// deleted before that, the oldest first. All methods may be called concurrently.
type Spool struct {
	cfg    Config // with its defaults
	checks checks

	mu      sync.Mutex // guards the rest, and the entries
	dir     directory
	closed  bool
	seq     uint64 // makes file names unique: those being deleted never meet those being made
	bytes   int64  // reserved by drafts, entries and kept files
	coming  int64  // of drafts: what they will write yet, which the free space of the disk does not show
	drafts  map[keeper]struct{}
	kept    []kept // the oldest first
	entries map[store.Hash]*entry
	idle    *list.List // of *entry without a handle, the longest idle first
}

// A keeper is a draft, which Keep ends.
type keeper interface{ Keep() }

// checks counts the drafts that were complete, and how long it took to check these, in nanoseconds.
type checks struct{ done, took atomic.Int64 }

// A kept describes a file with a part of a NAR, or with all of it, that no draft uses.
type kept struct {
	draftFile
	bytes int64     // of the NAR that are there
	since time.Time // when it was last used
}

// An entry is one verified file. It is guarded by the spool's mutex, but for what never changes.
type entry struct {
	spool *Spool
	hash  store.Hash
	size  int64
	name  string

	file    *os.File // nil while there is no handle
	handles int
	used    bool
	place   *list.Element // in spool.idle, nil while there is a handle
	since   time.Time     // when it became idle
}

// Expire deletes drafts that were not resumed for a day, and verified NARs that were idle for 10 minutes. Get and
// Create do so, too; the owner of the spool calls Expire from time to time in case nothing is fetched.
func (s *Spool) Expire() {
	s.mu.Lock()
	victims := s.expire()
	s.mu.Unlock()
	s.remove(victims)
}

// expire forgets what has been idle, or kept, for too long and returns the files to delete.
func (s *Spool) expire() (names []string) {
	for len(s.kept) > 0 && time.Since(s.kept[0].since) >= keptTime {
		names = append(names, s.drop(0).name)
	}
	for el := s.idle.Front(); el != nil && time.Since(el.Value.(*entry).since) >= idleTime; el = s.idle.Front() {
		e := el.Value.(*entry)
		s.forget(e)
		names = append(names, e.name)
	}
	return names
}

// spare returns how many bytes of the spool can be freed; enough of them suffice.
func (s *Spool) spare(enough int64) (n int64) {
	for _, k := range s.kept {
		n += roundUp(k.bytes)
	}
	for el := s.idle.Front(); el != nil && n < enough; el = el.Next() {
		n += roundUp(el.Value.(*entry).size)
	}
	return n
}

// leastWanted forgets the oldest of the kept files, or if there is none the entry that has been idle longest, and
// returns the name of its file; "" if all is held.
func (s *Spool) leastWanted() string {
	if len(s.kept) > 0 {
		return s.drop(0).name
	}
	el := s.idle.Front()
	if el == nil {
		return ""
	}
	e := el.Value.(*entry)
	s.forget(e)
	return e.name
}

// evict deletes the NAR that is wanted least. It returns false if all are held.
func (s *Spool) evict() bool {
	s.mu.Lock()
	name := s.leastWanted()
	s.mu.Unlock()
	if name == "" {
		return false
	}
	s.remove([]string{name})
	return true
}

// Fits returns an error that wraps [store.ErrNoSpace] if a NAR of size bytes does not fit even after all that is in the
// spool has gone. It wraps [store.ErrTooLarge], too, if that is because of the cap and not because of the disk.
func (s *Spool) Fits(size int64) error {
	if roundUp(size) > s.cfg.MaxBytes {
		return fmt.Errorf("%w: %w: a nar of %d bytes, and it takes %d", store.ErrNoSpace, store.ErrTooLarge, size, s.cfg.MaxBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := nar.FreeBytes(s.dir.lock) // with the mutex held: Renew and Close close the file
	if most := free + s.bytes - max(s.cfg.MinFree, 0); err == nil && size > most {
		return fmt.Errorf("%w: a nar of %d bytes, and the disk has room for %d beside what must stay free", store.ErrNoSpace, size,
			max(0, most))
	}
	return nil // if the disk cannot be asked, the fetch will tell
}

// reserve takes size bytes of the cap for a draft, of which here bytes are on the disk already, and returns a number
// for the name of its file.
func (s *Spool) reserve(size, here int64) (number uint64, err error) {
	s.mu.Lock()
	victims := s.expire()
	over := s.bytes + roundUp(size) - s.cfg.MaxBytes
	switch spare := s.spare(over); {
	case s.closed:
		err = os.ErrClosed
	case over > spare:
		err = fmt.Errorf("%w: %d of at most %d bytes are in use", store.ErrNoSpace, s.bytes-spare, s.cfg.MaxBytes)
	default:
		for s.bytes+roundUp(size) > s.cfg.MaxBytes {
			victims = append(victims, s.leastWanted())
		}
		s.bytes += roundUp(size)
		s.coming += size - here
		s.seq++
		number = s.seq
	}
	s.mu.Unlock()
	s.remove(victims)
	return number, err
}

// release gives back the room that reserve took for a draft of size bytes; settle takes off the bytes still to come.
func (s *Spool) release(d keeper, size int64) {
	s.mu.Lock()
	s.bytes -= roundUp(size)
	delete(s.drafts, d)
	s.mu.Unlock()
}

// settle records that size bytes of a draft have been written, or never will be.
func (s *Spool) settle(size int64) {
	s.mu.Lock()
	s.coming -= size
	s.mu.Unlock()
}

// floor evicts NARs until the drafts can be completed with the floor left free, and fails if that is impossible.
func (s *Spool) floor() error {
	for {
		s.mu.Lock()
		free, err := nar.FreeBytes(s.dir.lock) // with the mutex held, as in Fits
		coming := s.coming
		s.mu.Unlock()
		if err != nil || free-coming >= max(s.cfg.MinFree, 0) {
			return err
		}
		if !s.evict() {
			return fmt.Errorf("%w: %d bytes are free on the disk, %d are to come, %d must stay free", store.ErrNoSpace, free, coming,
				s.cfg.MinFree)
		}
	}
}

func roundUp(size int64) int64 { return (size + sizeUnit - 1) / sizeUnit * sizeUnit }

// forget takes an entry out of the books; its file is the caller's to delete.
func (s *Spool) forget(e *entry) {
	if s.entries[e.hash] != e {
		return
	}
	delete(s.entries, e.hash)
	s.bytes -= roundUp(e.size)
	if e.place != nil {
		s.idle.Remove(e.place)
		e.place = nil
	}
}

// remove deletes files, without the mutex, because deleting a large file takes a while. Errors are ignored: the file is
// deleted at the next start.
func (s *Spool) remove(names []string) {
	root := s.root()
	for _, name := range names {
		_ = root.Remove(name)
	}
}

func (s *Spool) root() *os.Root {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir.root
}

// drop takes a kept file out of the books; the file is the caller's.
func (s *Spool) drop(i int) kept {
	k := s.kept[i]
	s.kept = slices.Delete(s.kept, i, i+1)
	s.bytes -= roundUp(k.bytes)
	return k
}

// keep enters a file of which bytes are there.
func (s *Spool) keep(f draftFile, bytes int64) {
	k := kept{draftFile{name: f.name, want: f.want, size: f.size}, bytes, time.Now()}
	s.mu.Lock()
	s.kept = append(s.kept, k)
	s.bytes += roundUp(k.bytes)
	victims := s.expire()
	for len(s.kept) > maxKept || len(s.kept) > 0 && s.bytes > s.cfg.MaxBytes {
		victims = append(victims, s.drop(0).name)
	}
	s.mu.Unlock()
	s.remove(victims)
}
