package nixstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/nix-community/go-nix/pkg/wire"

	"narbor/store"
	"narbor/store/flight"
)

// Store's worker protocol, as a client. Each request is a uint64 operation and its arguments; the answer is a
// stream of log messages, then the result. Version 1.35 is offered: every daemon since Nix 2.0 accepts it, and
// it is the lowest that newer Lix accepts.
const (
	workerMagicClient = 0x6e697863
	workerMagicDaemon = 0x6478696f
	workerVersion     = 1<<8 | 35
	workerVersionMin  = 1<<8 | 18 // Nix 2.0; older versions report invalid paths in another way

	opAddTempRoot           = 11
	opQueryAllValidPaths    = 23
	opQueryPathInfo         = 26
	opQueryPathFromHashPart = 29
	opQueryValidPaths       = 31
	opQueryValidDerivers    = 33
)

const (
	// maxDaemonConns bounds the pool. Each connection is a process on the other side; a query takes it 30–150 µs.
	maxDaemonConns = 4
	// maxDaemonConnAge makes connections follow an upgrade of Nix within the hour.
	maxDaemonConnAge = time.Hour
	// redialAfter is the time after which a request that waits for a busy connection tries again to make one more.
	redialAfter = 100 * time.Millisecond
	// closeLimit bounds the wait for a daemon of our own that hangs, on a file server for example.
	closeLimit = 5 * time.Second
)

// errPanic is the error of a request that panicked. It would again.
var errPanic = errors.New("panic")

// A daemonConn is one connection that has been through the greeting. One goroutine at a time uses it; after any
// error it is good for nothing but close.
type daemonConn struct {
	rwc     rwc
	r       wireReader
	w       *bufio.Writer
	version uint64 // the lower of ours and the daemon's
	born    time.Time
}

// daemonRequest is one operation. The functions may run several times, on different connections, and after the caller
// has left.
type daemonRequest struct {
	op    uint64
	args  func(w io.Writer, version uint64) // errors of w are noticed when it is flushed
	reply func(r *wireReader)
}

// newDaemonConn greets the daemon on conn.
func newDaemonConn(ctx context.Context, conn rwc) (*daemonConn, error) {
	c := &daemonConn{rwc: conn, r: wireReader{r: bufio.NewReader(conn)}, w: bufio.NewWriter(conn), born: time.Now()}
	return c, c.guarded(ctx, c.greet)
}

func (c *daemonConn) greet() error {
	_ = wire.WriteUint64(c.w, workerMagicClient)
	if err := c.w.Flush(); err != nil {
		return err
	}
	magic, theirs := c.r.uint64(), c.r.uint64()
	if c.r.err == nil && magic != workerMagicDaemon {
		return fmt.Errorf("it greets with %#x: not a nix daemon", magic)
	}
	if c.r.err == nil && (theirs>>8 != workerVersion>>8 || theirs < workerVersionMin) {
		return fmt.Errorf("it speaks protocol %d.%d, want at least 1.%d", theirs>>8, theirs&0xff, workerVersionMin&0xff)
	}
	c.version = min(workerVersion, theirs)
	_ = wire.WriteUint64(c.w, workerVersion)
	_ = wire.WriteUint64(c.w, 0) // no wish for a processor
	_ = wire.WriteUint64(c.w, 0) // nor for reserved space
	if err := c.w.Flush(); err != nil && c.r.err == nil {
		return err
	}
	if c.version >= 1<<8|33 {
		c.r.string(maxWireString) // Nix's version
	}
	if c.version >= 1<<8|35 {
		c.r.uint64() // whether it trusts us
	}
	c.r.skipMessages(c.version)
	return c.r.err
}

// do sends one request and reads its reply.
func (c *daemonConn) do(ctx context.Context, req daemonRequest) (err error) {
	defer func() { // it may run in a goroutine of its own
		if p := recover(); p != nil {
			err = fmt.Errorf("nix daemon: operation %d: %w: %v\n%s", req.op, errPanic, p, debug.Stack())
		}
	}()
	return c.guarded(ctx, func() error {
		_ = wire.WriteUint64(c.w, req.op)
		req.args(c.w, c.version)
		if err := c.w.Flush(); err != nil {
			return err
		}
		c.r.skipMessages(c.version)
		if c.r.err == nil {
			req.reply(&c.r)
		}
		if c.r.err == nil && c.r.r.Buffered() > 0 {
			return fmt.Errorf("operation %d: %d bytes more than a reply", req.op, c.r.r.Buffered())
		}
		return c.r.err
	})
}

// guarded runs f, which uses the connection, until ctx ends or daemonTimeout is over.
func (c *daemonConn) guarded(ctx context.Context, f func() error) error {
	if err := c.rwc.SetDeadline(time.Now().Add(daemonTimeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.rwc.SetDeadline(time.Unix(1, 0)) })
	err := f()
	interrupted := !stop()
	switch {
	case interrupted && ctx.Err() != nil: // the deadline in the past may still be set: not even a success keeps it
		return fmt.Errorf("nix daemon: %w", context.Cause(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("nix daemon has not answered for %v: %w", daemonTimeout, os.ErrDeadlineExceeded)
	case err == nil || isDaemonError(err):
		return err
	}
	return fmt.Errorf("nix daemon: %w", err)
}

func isDaemonError(err error) bool {
	_, ok := errors.AsType[*daemonError](err)
	return ok
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func (c *daemonConn) close() { _ = c.rwc.Close() }

func (c *daemonConn) old() bool { return time.Since(c.born) > maxDaemonConnAge }

// A daemon is a pool of connections to Nix's daemon. Its methods may be called concurrently.
type daemon struct {
	dial  func(context.Context) (rwc, error)
	life  *flight.Life  // of requests, and of dials
	slots chan struct{} // one for each connection that is there or being made
	ready chan struct{} // one for each idle connection

	mu   sync.Mutex // guards the rest
	idle []*daemonConn
}

func newDaemon(dial func(context.Context) (rwc, error)) *daemon {
	return &daemon{dial: dial, life: flight.NewLife(), slots: make(chan struct{}, maxDaemonConns),
		ready: make(chan struct{}, maxDaemonConns)}
}

// connect makes a connection that belongs to the caller and not to the pool.
func (d *daemon) connect(ctx context.Context) (*daemonConn, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	c, err := newDaemonConn(ctx, conn)
	if err == nil {
		return c, nil
	}
	_ = conn.Close()
	if child, ok := conn.(*daemonChild); ok {
		return nil, child.explain(err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		err = fmt.Errorf("%w (allowed-users in nix.conf may leave this user out)", err)
	}
	return nil, err
}

// call runs one request on a pooled connection. If that turns out to be dead, the daemon has been restarted, and another
// connection gets the same request: all requests may be repeated.
//
// If ctx ends first, the request goes on without its caller, for [daemonTimeout] at most: a connection is a process on
// the other side, and on a busy machine the start of another takes longer than the rest of an answer. So the caller
// reads nothing that req.reply writes unless call has succeeded.
func (d *daemon) call(ctx context.Context, req daemonRequest) error {
	err := ctx.Err()
	if err != nil {
		return fmt.Errorf("nix daemon: %w", context.Cause(ctx))
	}
	for range maxDaemonConns + 1 { // all that were idle may be dead
		var c *daemonConn
		if c, err = d.take(ctx); err != nil {
			return err
		}
		done := make(chan error, 1) // has room: the caller may have left
		if !d.life.Go(func() {
			err := c.do(d.life.Context(), req)
			d.put(c, err == nil)
			done <- err
		}) {
			d.put(c, false)
			return fs.ErrClosed
		}
		select {
		case err = <-done:
		case <-ctx.Done():
			return fmt.Errorf("nix daemon: %w", context.Cause(ctx))
		}
		if err == nil || isDaemonError(err) || isTimeout(err) || errors.Is(err, fs.ErrClosed) || errors.Is(err, errPanic) {
			return err
		}
	}
	return err
}

// take returns the idle connection that was used last. If none is idle and there are fewer than [maxDaemonConns], one
// more is made for the pool, and the caller takes the first that becomes idle. It fails if none can be made, unless
// there is another, which may be busy.
func (d *daemon) take(ctx context.Context) (*daemonConn, error) {
	slots, made := d.slots, make(chan error, 1) // has room: the caller may have left
	var again <-chan time.Time
	for {
		select {
		case <-d.ready: // rather than one more
			if c := d.pop(); c != nil {
				return c, nil
			}
			continue
		default:
		}
		select {
		case <-d.ready:
			if c := d.pop(); c != nil {
				return c, nil
			}
		case slots <- struct{}{}:
			slots = nil // one at a time
			if !d.life.Go(func() {
				c, err := d.connect(d.life.Context())
				d.put(c, err == nil)
				made <- err
			}) {
				<-d.slots
				return nil, fs.ErrClosed
			}
		case err := <-made:
			if d.life.Context().Err() != nil {
				return nil, fs.ErrClosed
			}
			if err != nil && len(d.slots) == 0 {
				return nil, err
			}
			if slots = d.slots; err != nil {
				slots, again = nil, time.After(redialAfter)
			}
		case <-again:
			slots = d.slots
		case <-ctx.Done():
			return nil, fmt.Errorf("nix daemon: %w", context.Cause(ctx))
		}
	}
}

// pop returns the idle connection that was used last. It closes one that is too old, and returns nil then.
func (d *daemon) pop() *daemonConn {
	d.mu.Lock()
	c := d.idle[len(d.idle)-1]
	d.idle = d.idle[:len(d.idle)-1]
	d.mu.Unlock()
	if c.old() {
		d.put(c, false)
		return nil
	}
	return c
}

// put makes a connection idle that is good for another request. It closes one that is not, and gives its place to
// another. c is nil if none was made.
func (d *daemon) put(c *daemonConn, good bool) {
	if !good || c.old() || d.life.Context().Err() != nil {
		if c != nil {
			c.close()
		}
		<-d.slots
		return
	}
	d.mu.Lock()
	d.idle = append(d.idle, c)
	d.mu.Unlock()
	d.ready <- struct{}{} // has room for all
}

// close ends the requests, and closes the connections. It does not wait longer than [closeLimit] for what hangs.
func (d *daemon) close() {
	ended := make(chan struct{})
	go func() {
		d.life.End(fs.ErrClosed)
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(closeLimit):
	}
	for {
		select {
		case <-d.ready:
			if c := d.pop(); c != nil {
				d.put(c, false)
			}
		default:
			return
		}
	}
}

// paths completes and runs a request for a list of paths. It leaves out names that only newer versions of Nix allow: no
// claim could have them.
func (d *daemon) paths(ctx context.Context, req daemonRequest) ([]store.Path, error) {
	var found []string
	req.reply = func(r *wireReader) { found = r.strings(maxWirePaths) }
	if err := d.call(ctx, req); err != nil {
		return nil, err
	}
	paths := make([]store.Path, 0, len(found))
	for _, s := range found {
		if p, err := store.ParsePath(s); err == nil {
			paths = append(paths, p)
		}
	}
	return store.SortPaths(paths), nil
}
