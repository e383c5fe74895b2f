// Package spool keeps NARs on disk between their arrival and Nix's request, for this process alone.
//
// A NAR enters as a [Draft], which other peers may read from before it is whole, and becomes readable as a [NAR], which exists
// only if all of its bytes were hashed, their SHA-256 was the expected one, and the structure of the archive was found
// right. Free space and a cap are kept to; NARs that nothing holds make room. There is no goroutine but the hashing within
// a call; [Spool.Close] deletes all. All methods may be called concurrently.
package spool

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

const (
	defaultMax     = 4 << 30
	defaultMinFree = 2 << 30

	// idleTime is how long a verified NAR waits for a request. Nix requests a NAR seconds after its narinfo; a request
	// later than this costs a second fetch over the LAN, which is cheap.
	idleTime = 10 * time.Minute

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
// recently held first, after 10 minutes, or at once if Nix has had it. All methods may be called concurrently.
type Spool struct {
	cfg Config // with its defaults

	checks, checking atomic.Int64 // of drafts that were complete: how many, and how long these took in nanoseconds

	mu      sync.Mutex // guards the rest, and the entries
	root    *os.Root
	lock    *os.File // holds the flock; its file system is the spool's
	closed  bool
	seq     uint64 // makes file names unique: those being deleted never meet those being made
	bytes   int64  // reserved by drafts and entries
	coming  int64  // of drafts: what they will write yet, which the free space of the disk does not show
	entries map[store.Hash]*entry
	idle    *list.List // of *entry without a handle, the longest idle first
}

// Stats is what a spool holds at a moment.
type Stats struct {
	Bytes    int64 // reserved on disk, by verified NARs and by those being received
	Entries  int   // verified NARs
	MaxBytes int64
	Free     int64 // bytes that may still be written to its file system; 0 if that is not known
	MinFree  int64 // of these, the part that is left free

	Verified   int64         // drafts that were complete and so were checked, since it was opened
	VerifyTime time.Duration // that this took, all together
}

// Open takes a directory as spool, for this process alone, and deletes the NARs an earlier process left in it,
// half-received or verified: a verified one would have to be hashed again, which is not cheaper than fetching it.
func Open(cfg Config) (*Spool, error) {
	if cfg.MaxBytes < 0 {
		return nil, fmt.Errorf("spool %s: a cap of %d bytes", cfg.Dir, cfg.MaxBytes)
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMax
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = defaultMinFree
	}
	s := &Spool{cfg: cfg, entries: map[store.Hash]*entry{}, idle: list.New()}
	var err error
	if s.root, s.lock, err = takeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("spool %s: %w", cfg.Dir, err)
	}
	return s, nil
}

// Close deletes the spool's content and releases the directory. Open handles stay readable, but for [NAR.Open];
// drafts cannot be committed any more.
func (s *Spool) Close() error {
	s.mu.Lock()
	for _, e := range s.entries {
		s.forget(e)
	}
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	return errors.Join(clean(s.root), s.lock.Close(), s.root.Close())
}

// Get returns a handle on the NAR with that hash if it is in the spool.
func (s *Spool) Get(h store.Hash) (*NAR, bool) {
	s.mu.Lock()
	victims := s.expire()
	e, ok := s.entries[h]
	if ok && !s.hold(e) {
		victims, ok = append(victims, e.name), false
	}
	var nar *NAR
	if ok {
		nar = &NAR{entry: e, file: e.file}
	}
	s.mu.Unlock()
	s.remove(victims)
	return nar, ok
}

// Has says whether the NAR with that hash is in the spool, and leaves it as it is.
func (s *Spool) Has(h store.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[h] != nil
}

// hold adds a handle to an entry, or forgets the entry and returns false if its file has gone. The file is opened
// with the mutex held: a local open of a name that is in the kernel's cache takes microseconds.
func (s *Spool) hold(e *entry) bool {
	if e.file == nil {
		f, err := s.root.Open(e.name)
		if err != nil {
			s.forget(e)
			return false
		}
		e.file = f
	}
	if e.place != nil {
		s.idle.Remove(e.place)
		e.place = nil
	}
	e.handles++
	e.used = false // it is wanted again
	return true
}

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

// expire forgets what has been idle for too long and returns the files to delete.
func (s *Spool) expire() (names []string) {
	for el := s.idle.Front(); el != nil && time.Since(el.Value.(*entry).since) >= idleTime; el = s.idle.Front() {
		e := el.Value.(*entry)
		s.forget(e)
		names = append(names, e.name)
	}
	return names
}

// evict forgets the entry that has been idle longest and deletes it. It returns false if every entry is held.
func (s *Spool) evict() bool {
	s.mu.Lock()
	el := s.idle.Front()
	var name string
	if el != nil {
		name = el.Value.(*entry).name
		s.forget(el.Value.(*entry))
	}
	s.mu.Unlock()
	if el == nil {
		return false
	}
	s.remove([]string{name})
	return true
}

// remove deletes files, without the mutex, because deleting a large file takes a while. Errors are ignored: the file is
// deleted at the next start.
func (s *Spool) remove(names []string) {
	root, _ := s.place()
	for _, name := range names {
		_ = root.Remove(name)
	}
}

// Fits returns an error that wraps [store.ErrNoSpace] if a NAR of size bytes does not fit even after all that is in the spool
// has gone. It wraps [store.ErrTooLarge], too, if that is because of the cap and not because of the disk.
func (s *Spool) Fits(size int64) error {
	if roundUp(size) > s.cfg.MaxBytes {
		return fmt.Errorf("%w: %w: a nar of %d bytes, and it takes %d", store.ErrNoSpace, store.ErrTooLarge, size, s.cfg.MaxBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := nar.FreeBytes(s.lock) // with the mutex held: Renew replaces the file
	if most := free + s.bytes - max(s.cfg.MinFree, 0); err == nil && size > most {
		return fmt.Errorf("%w: a nar of %d bytes, and the disk has room for %d beside what must stay free", store.ErrNoSpace, size,
			max(0, most))
	}
	return nil // if the disk cannot be asked, the fetch will tell
}

// Create reserves the space for a NAR of that hash and size. Several drafts may exist for one hash, each with its
// own file; the first that is committed becomes the entry. The error wraps [store.ErrNoSpace] if the NAR does not fit even
// after all NARs without open handles are deleted.
func (s *Spool) Create(h store.Hash, size int64) (*Draft, error) {
	if size < 1 || size > store.MaxNarSize {
		return nil, fmt.Errorf("spool: %d is not a NAR's size", size)
	}
	name, err := s.reserve(h, size)
	if err != nil {
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, err)
	}
	f, err := s.make(name)
	if err != nil {
		s.remove([]string{name})
		s.release(size)
		s.settle(size)
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, nar.NoSpace(err))
	}
	return newDraft(s, draftFile{f, name, h, size}), nil
}

// reserve takes size bytes of the cap and returns the name of the file to come.
func (s *Spool) reserve(h store.Hash, size int64) (name string, err error) {
	need := roundUp(size)
	s.mu.Lock()
	victims := s.expire()
	var idle int64
	for el := s.idle.Front(); el != nil && s.bytes-idle+need > s.cfg.MaxBytes; el = el.Next() {
		idle += roundUp(el.Value.(*entry).size)
	}
	switch {
	case s.closed:
		err = os.ErrClosed
	case s.bytes-idle+need > s.cfg.MaxBytes:
		err = fmt.Errorf("%w: %d of at most %d bytes are in use", store.ErrNoSpace, s.bytes-idle, s.cfg.MaxBytes)
	default:
		for s.bytes+need > s.cfg.MaxBytes {
			e := s.idle.Front().Value.(*entry)
			victims = append(victims, e.name)
			s.forget(e)
		}
		s.bytes += need
		s.coming += size
		s.seq++
		name = fmt.Sprintf("%s-%d%s", h.Base32(), s.seq, partSuffix)
	}
	s.mu.Unlock()
	s.remove(victims)
	return name, err
}

// release gives back what reserve took.
func (s *Spool) release(size int64) {
	s.mu.Lock()
	s.bytes -= roundUp(size)
	s.mu.Unlock()
}

// settle records that size bytes of a draft have been written, or never will be.
func (s *Spool) settle(size int64) {
	s.mu.Lock()
	s.coming -= size
	s.mu.Unlock()
}

// make makes the file of a draft for which there is space. Its blocks are not set aside: that costs as much as writing
// them, before the first byte has come, and most files are deleted before a disk would have seen them.
func (s *Spool) make(name string) (*os.File, error) {
	if err := s.floor(); err != nil {
		return nil, err
	}
	open := func() (*os.File, error) {
		root, _ := s.place()
		return root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) && s.Renew() == nil {
		return open()
	}
	return f, err
}

// floor evicts NARs until the drafts can be completed with the floor left free, and fails if that is impossible.
func (s *Spool) floor() error {
	for {
		_, lock := s.place()
		free, err := nar.FreeBytes(lock)
		s.mu.Lock()
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

// adopt makes a draft's file an entry, or deletes it if the same NAR has become one meanwhile.
func (s *Spool) adopt(d draftFile) (*NAR, error) {
	name := strings.TrimSuffix(d.name, partSuffix) + narSuffix
	root, _ := s.place()
	if err := root.Rename(d.name, name); err != nil && !errors.Is(err, fs.ErrNotExist) { // without a name it can be held all the same
		return nil, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, os.ErrClosed
	}
	e, ok := s.entries[d.want]
	if ok && s.hold(e) {
		s.bytes -= roundUp(d.size)
		nar := &NAR{entry: e, file: e.file}
		s.mu.Unlock()
		d.file.Close()
		s.remove([]string{name})
		return nar, nil
	}
	e = &entry{spool: s, hash: d.want, size: d.size, name: name, file: d.file, handles: 1}
	s.entries[d.want] = e
	s.mu.Unlock()
	return &NAR{entry: e, file: d.file}, nil
}

// Stats says how full the spool is.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := nar.FreeBytes(s.lock) // with the mutex held: Renew replaces the file
	if err != nil {
		free = 0
	}
	return Stats{Bytes: s.bytes, Entries: len(s.entries), MaxBytes: s.cfg.MaxBytes, Free: free, MinFree: max(s.cfg.MinFree, 0),
		Verified: s.checks.Load(), VerifyTime: time.Duration(s.checking.Load())}
}

// Renew makes the directory anew if it was deleted. NARs that are open or being received stay usable: their files have
// lost their names and nothing else.
func (s *Spool) Renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	was, err := s.root.Stat(".")
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.cfg.Dir, err)
	}
	if is, err := os.Stat(s.cfg.Dir); err == nil && os.SameFile(was, is) {
		return nil
	}
	root, lock, err := takeDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.cfg.Dir, err)
	}
	err = errors.Join(s.lock.Close(), s.root.Close())
	s.root, s.lock = root, lock
	return err
}

// place returns the directory and the file in it that is locked.
func (s *Spool) place() (*os.Root, *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.root, s.lock
}

func roundUp(size int64) int64 { return (size + sizeUnit - 1) / sizeUnit * sizeUnit }
