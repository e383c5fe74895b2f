package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

// A NAR is a handle on a NAR in the spool that has its hash and passed [nar.Check], and implements [store.NAR]. Its
// holder closes it once; until then the NAR stays. All methods may be called concurrently, but none after Close.
type NAR struct {
	entry  *entry
	file   *os.File // shared with the entry and the other handles
	closed atomic.Bool
}

// Hash is the NarHash that the bytes have.
func (n *NAR) Hash() store.Hash { return n.entry.hash }

// Size implements [store.NAR].
func (n *NAR) Size() int64 { return n.entry.size }

// ReadAt implements [store.NAR].
func (n *NAR) ReadAt(p []byte, off int64) (int, error) {
	if n.closed.Load() {
		return 0, os.ErrClosed
	}
	return nar.ReadFile(n.file, p, off, n.entry.size)
}

// Open opens the NAR as a file with an offset of its own, which net/http sends without copying. The file is longer than
// the NAR: what follows after [NAR.Size] bytes does not belong to it. The caller closes it.
func (n *NAR) Open() (*os.File, error) {
	if n.closed.Load() {
		return nil, os.ErrClosed
	}
	f, err := n.entry.spool.root().Open(n.entry.name)
	if errors.Is(err, fs.ErrNotExist) { // the file was deleted; Linux has another name for it
		if again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", n.file.Fd())); err == nil {
			return again, nil
		}
	}
	return f, err
}

// Retain returns a second handle, which is closed on its own.
func (n *NAR) Retain() *NAR {
	s := n.entry.spool
	s.mu.Lock()
	n.entry.handles++
	s.mu.Unlock()
	return &NAR{entry: n.entry, file: n.file}
}

// Used reports that Nix has the NAR: it is deleted when the last handle closes, unless it is requested before that.
func (n *NAR) Used() {
	s := n.entry.spool
	s.mu.Lock()
	n.entry.used = true
	s.mu.Unlock()
}

// Close gives the handle back.
func (n *NAR) Close() error {
	if n.closed.Swap(true) {
		return os.ErrClosed
	}
	e, s := n.entry, n.entry.spool
	s.mu.Lock()
	e.handles--
	if e.handles > 0 {
		s.mu.Unlock()
		return nil
	}
	f := e.file
	e.file = nil
	gone := e.used || s.entries[e.hash] != e
	if gone {
		s.forget(e)
	} else {
		e.since, e.place = time.Now(), s.idle.PushBack(e)
	}
	s.mu.Unlock()
	if gone {
		s.remove([]string{e.name})
	}
	return f.Close()
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
