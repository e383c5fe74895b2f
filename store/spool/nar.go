package spool

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

// A NAR is a handle on a NAR in the spool that has its hash and passed [nar.Check], and implements [store.NAR]. Its holder
// closes it once; until then the NAR stays. All methods may be called concurrently, but none after Close.
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

// Open opens the NAR as a file with an offset of its own, which net/http sends without copying. The file is longer than the NAR:
// what follows after [NAR.Size] bytes does not belong to it. The caller closes it.
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
