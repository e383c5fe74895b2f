package nixstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nix-community/go-nix/pkg/wire"

	"narbor/store"
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
)

// A daemonConn is one connection that has been through the greeting. One goroutine at a time uses it; after any
// error it is good for nothing but close.
type daemonConn struct {
	rwc     rwc
	r       wireReader
	w       *bufio.Writer
	version uint64 // the lower of ours and the daemon's
	born    time.Time
}

// daemonRequest is one operation. The functions may run twice, on different connections.
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
func (c *daemonConn) do(ctx context.Context, req daemonRequest) error {
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
	slots chan struct{} // one for each connection in use

	mu     sync.Mutex // guards what follows
	idle   []*daemonConn
	closed bool
}

func newDaemon(dial func(context.Context) (rwc, error)) *daemon {
	return &daemon{dial: dial, slots: make(chan struct{}, maxDaemonConns)}
}

// connect makes a connection that belongs to the caller.
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

// call runs one request on a pooled connection. If that is one from before, and turns out to be dead, the daemon
// has been restarted, and a new connection gets the same request: all of them may be repeated.
func (d *daemon) call(ctx context.Context, req daemonRequest) error {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return fmt.Errorf("nix daemon: %w", context.Cause(ctx))
	}
	for {
		c, pooled, err := d.take()
		if err == nil && !pooled {
			c, err = d.connect(ctx)
		}
		if err != nil {
			return err
		}
		err = c.do(ctx, req)
		if err == nil {
			d.put(c)
			return nil
		}
		c.close()
		if !pooled || ctx.Err() != nil || isDaemonError(err) || isTimeout(err) {
			return err
		}
	}
}

// take returns the pooled connection that was used last, if there is any, and closes those that are too old.
func (d *daemon) take() (c *daemonConn, ok bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, false, fs.ErrClosed
	}
	for n := len(d.idle); n > 0; n = len(d.idle) {
		c, d.idle = d.idle[n-1], d.idle[:n-1]
		if !c.old() {
			return c, true, nil
		}
		c.close()
	}
	return nil, false, nil
}

func (d *daemon) put(c *daemonConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || c.old() {
		c.close()
		return
	}
	d.idle = append(d.idle, c)
}

func (d *daemon) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, c := range d.idle {
		c.close()
	}
	d.idle = nil
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
