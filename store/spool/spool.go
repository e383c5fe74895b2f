// Package spool keeps NARs on disk between their arrival and Nix's request, for this process alone.
//
// A NAR enters as a [Draft], which other peers may read from before it is whole, and becomes readable as a [NAR], which exists
// only if all of its bytes were hashed, their SHA-256 was the expected one, and the structure of the archive was found
// right. Free space and a cap are kept to; drafts that were given up, and NARs that nothing holds, make room. There is no
// goroutine but the hashing within a call. All methods may be called concurrently.
//
// # Files
//
// Each NAR, whole or not, is a file HASH-SIZE-NUMBER.nar: its NarHash in Nix's base 32, its NarSize, and a number that makes
// the name unique. The file has the NAR, and behind it a checksum for each of its blocks of [store.BlockSize]: 4 bytes, the
// CRC-32C of the block in little-endian order, or 1 if that is 0; 0 if the block is not there. Nothing says that a NAR is
// whole or right: a later process takes every file as a draft, reads the blocks whose checksums agree, and hashes the NAR.
// So the process may be killed, or the machine lose power, at any moment, and nothing is synced to the disk.
package spool

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
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

	// keptTime is how long a file stays that no request goes on with: until the next day's build.
	keptTime = 24 * time.Hour
	// maxKept bounds the number of those files, which all are opened at the start. Nix fetches 16 NARs at once, and narbor
	// some more ahead of it.
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
// recently held first, after 10 minutes, or at once if Nix has had it. What drafts leave when they are given up is deleted
// before that, the oldest first. All methods may be called concurrently.
type Spool struct {
	cfg    Config // with its defaults
	checks checks

	mu      sync.Mutex // guards the rest, and the entries
	dir     directory
	closed  bool
	seq     uint64 // makes file names unique: those being deleted never meet those being made
	bytes   int64  // reserved by drafts, entries and kept files
	coming  int64  // of drafts: what they will write yet, which the free space of the disk does not show
	drafts  map[*Draft]struct{}
	kept    []kept // the oldest first
	entries map[store.Hash]*entry
	idle    *list.List // of *entry without a handle, the longest idle first
}

// checks counts the drafts that were complete, and how long it took to check these, in nanoseconds.
type checks struct{ done, took atomic.Int64 }

// A directory is where a spool's files are.
type directory struct {
	root *os.Root
	lock *os.File // holds the flock; its file system is the spool's
}

// Stats is what a spool holds at a moment.
type Stats struct {
	Bytes    int64 // reserved on disk, by verified NARs, by those being received, and by what is kept of others
	Entries  int   // verified NARs
	MaxBytes int64
	Free     int64 // bytes that may still be written to its file system; 0 if that is not known
	MinFree  int64 // of these, the part that is left free

	Verified   int64         // drafts that were complete and so were checked, since it was opened
	VerifyTime time.Duration // that this took, all together
}

// Open takes a directory as spool, for this process alone. The NARs that an earlier process has left in it, half-received or
// verified, are kept for [Spool.Resume], as far as there is room for them.
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
	s := &Spool{cfg: cfg, drafts: map[*Draft]struct{}{}, entries: map[store.Hash]*entry{}, idle: list.New()}
	var err error
	if s.dir, err = takeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("spool %s: %w", cfg.Dir, err)
	}
	if err = s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("spool %s: %w", cfg.Dir, err), s.dir.close())
	}
	_ = s.floor() // a draft will tell if that is not enough
	return s, nil
}

// Close ends all drafts, as [Draft.Keep] does, and releases the directory. Its files stay. Open handles stay readable, but for
// [NAR.Open].
func (s *Spool) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	drafts := slices.Collect(maps.Keys(s.drafts))
	s.mu.Unlock()
	if !first {
		return nil
	}
	for _, d := range drafts { // the next process may write to their files
		d.Keep()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir.close()
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
		f, err := s.dir.root.Open(e.name)
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

// remove deletes files, without the mutex, because deleting a large file takes a while. Errors are ignored: the file is
// deleted at the next start.
func (s *Spool) remove(names []string) {
	root := s.root()
	for _, name := range names {
		_ = root.Remove(name)
	}
}

// Create reserves the space for a NAR of that hash and size. Several drafts may exist for one hash, each with its
// own file; the first that is committed becomes the entry. The error wraps [store.ErrNoSpace] if the NAR does not fit even
// after all NARs without open handles are deleted.
func (s *Spool) Create(h store.Hash, size int64) (*Draft, error) {
	if size < 1 || size > store.MaxNarSize {
		return nil, fmt.Errorf("spool: %d is not a NAR's size", size)
	}
	number, err := s.reserve(size, 0)
	if err != nil {
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, err)
	}
	d := newDraft(s, draftFile{name: fileName(h, size, number), want: h, size: size}, 0)
	if d.file, err = s.make(d.name, size); err == nil {
		err = s.publish(d)
	}
	if err != nil {
		d.Discard()
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, nar.NoSpace(err))
	}
	return d, nil
}

// publish lets Close end a draft, which has its file. It fails if the spool has been closed.
func (s *Spool) publish(d *Draft) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	s.drafts[d] = struct{}{}
	return nil
}

// make makes the file of a draft for which there is space. Its blocks are not set aside: that costs as much as writing
// them, before the first byte has come, and most files are deleted before a disk would have seen them.
func (s *Spool) make(name string, size int64) (*os.File, error) {
	if err := s.floor(); err != nil {
		return nil, err
	}
	open := func() (*os.File, error) {
		return s.root().OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) && s.Renew() == nil {
		f, err = open()
	}
	if err != nil {
		return nil, err
	}
	return f, f.Truncate(fileSize(size))
}

// adopt makes a draft's file an entry, or deletes it if the same NAR has become one meanwhile.
func (s *Spool) adopt(d *Draft) (*NAR, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, os.ErrClosed
	}
	delete(s.drafts, d)
	e, ok := s.entries[d.want]
	if ok && s.hold(e) {
		s.bytes -= roundUp(d.size)
		nar := &NAR{entry: e, file: e.file}
		s.mu.Unlock()
		d.file.Close()
		s.remove([]string{d.name})
		return nar, nil
	}
	e = &entry{spool: s, hash: d.want, size: d.size, name: d.name, file: d.file, handles: 1}
	s.entries[d.want] = e
	s.mu.Unlock()
	return &NAR{entry: e, file: d.file}, nil
}

// Stats says how full the spool is.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := nar.FreeBytes(s.dir.lock) // with the mutex held, as in Fits
	if err != nil {
		free = 0
	}
	return Stats{Bytes: s.bytes, Entries: len(s.entries), MaxBytes: s.cfg.MaxBytes, Free: free, MinFree: max(s.cfg.MinFree, 0),
		Verified: s.checks.done.Load(), VerifyTime: time.Duration(s.checks.took.Load())}
}

// Renew makes the directory anew if it was deleted. NARs that are open or being received stay usable: their files have
// lost their names and nothing else. If another directory has its name, what is there is deleted: it may be a copy from a backup,
// or the same files again, which drafts and NARs of this spool use.
func (s *Spool) Renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	was, err := s.dir.root.Stat(".")
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.cfg.Dir, err)
	}
	if is, err := os.Stat(s.cfg.Dir); err == nil && os.SameFile(was, is) {
		return nil
	}
	dir, err := takeDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.cfg.Dir, err)
	}
	err = s.dir.close()
	s.dir = dir
	for len(s.kept) > 0 { // their files are lost
		s.drop(0)
	}
	names, lost := ours(dir.root)
	for _, name := range names {
		lost = errors.Join(lost, dir.root.Remove(name))
	}
	return errors.Join(err, lost)
}

// root returns the directory.
func (s *Spool) root() *os.Root {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir.root
}
