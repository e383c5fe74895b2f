package nixstore

import (
	"context"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/nix-community/go-nix/pkg/wire"

	"narbor/store"
)

const (
	// rootsLinger is how long paths stay rooted when no archive is open any more: long enough to fetch a closure
	// of small paths, one after the other, on one connection; short enough not to delay a garbage collection.
	rootsLinger = 5 * time.Second
	// maxSpentRoots is how many roots may be left over from paths that are no longer read, while others are read.
	maxSpentRoots = 1000
)

// tempRoots keeps paths from being garbage-collected while they are held. The daemon keeps a temporary root until
// the connection closes, so there is one connection for them all, replaced when it is dead, old or full of roots
// that are no longer held, and closed soon after the last is released. Should the daemon go away, the roots are gone
// until the next hold.
type tempRoots struct {
	d     *daemon
	turn  chan struct{} // filled while a call uses conn and added
	conn  *daemonConn   // nil if there is none
	added int           // roots taken on conn

	mu     sync.Mutex // guards what follows; never held across I/O
	held   map[store.Path]int
	timer  *time.Timer // calls rest
	closed bool
}

func newTempRoots(d *daemon) *tempRoots {
	return &tempRoots{d: d, turn: make(chan struct{}, 1), held: map[store.Path]int{}}
}

// hold roots p. Every successful call is matched by one of release.
func (t *tempRoots) hold(ctx context.Context, p store.Path) error {
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.held[p]++
	}
	t.mu.Unlock()
	if closed {
		return fs.ErrClosed
	}
	err := t.root(ctx, p)
	if err != nil {
		t.release(p)
	}
	return err
}

func (t *tempRoots) release(p store.Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[p]--; t.held[p] == 0 {
		delete(t.held, p)
	}
	if len(t.held) > 0 || t.closed {
		return
	}
	if t.timer == nil {
		t.timer = time.AfterFunc(rootsLinger, t.rest)
	} else {
		t.timer.Reset(rootsLinger)
	}
}

// rest closes the connection if nothing is held. A hold that is under way counts.
func (t *tempRoots) rest() {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	if len(t.paths()) == 0 {
		t.drop()
	}
}

func (t *tempRoots) paths() []store.Path {
	t.mu.Lock()
	defer t.mu.Unlock()
	paths := make([]store.Path, 0, len(t.held))
	for p := range t.held {
		paths = append(paths, p)
	}
	return paths
}

func (t *tempRoots) root(ctx context.Context, p store.Path) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.conn != nil && !t.conn.old() && t.added < maxSpentRoots+2*len(t.paths()) {
		err := addTempRoot(ctx, t.conn, p) // even if p is rooted: this also shows that the connection lives
		if err == nil {
			t.added++
			return nil
		}
		t.drop()
		if ctx.Err() != nil || isTimeout(err) {
			return err
		}
	}
	return t.renew(ctx)
}

// renew roots all that is held on a new connection, and closes the one before only then.
func (t *tempRoots) renew(ctx context.Context) error {
	c, err := t.d.connect(ctx)
	if err != nil {
		return err
	}
	paths := t.paths()
	for _, p := range paths {
		if err := addTempRoot(ctx, c, p); err != nil {
			c.close()
			return err
		}
	}
	t.drop()
	t.conn, t.added = c, len(paths)
	return nil
}

func addTempRoot(ctx context.Context, c *daemonConn, p store.Path) error {
	return c.do(ctx, daemonRequest{
		op:    opAddTempRoot,
		args:  func(w io.Writer, _ uint64) { _ = wire.WriteString(w, p.String()) },
		reply: func(r *wireReader) { r.uint64() },
	})
}

func (t *tempRoots) drop() {
	if t.conn != nil {
		t.conn.close()
	}
	t.conn, t.added = nil, 0
}

// close gives up all roots.
func (t *tempRoots) close() {
	t.mu.Lock()
	t.closed = true
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	t.turn <- struct{}{}
	t.drop()
	<-t.turn
}
