package nixstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A rwc is a byte stream to a daemon: a socket, or the pipes of a child.
type rwc interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// daemonTimeout bounds one request, also after its caller has left, and the greeting. Listing 100,000 paths takes under
// a second; taking a temporary root waits for a running garbage collector's lock with Nix 2.3.
const daemonTimeout = 10 * time.Second

// A nixPlace is where a Nix store's daemon and database are looked for.
type nixPlace struct {
	root   string // the directory that holds a chroot store's paths, "" for none
	socket string
	db     string // the database file: a store exists here even if no daemon runs
}

// dial connects to the daemon that listens on the socket; where none does, it starts one of our own and talks to
// it through pipes, which needs write permission on the store's state.
func (p nixPlace) dial(ctx context.Context) (rwc, error) {
	conn, err := dialSocket(ctx, p.socket)
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return conn, err
	}
	if _, statErr := os.Stat(p.db); statErr != nil {
		return nil, err
	}
	bin, lookErr := exec.LookPath("nix-daemon")
	if lookErr != nil {
		return nil, fmt.Errorf("%w, and no nix-daemon to start instead: %w", err, lookErr)
	}
	return startDaemon(bin, p.root)
}

// dialSocket connects to the daemon's socket. A full backlog, which Nix keeps at 5, is waited for.
func dialSocket(ctx context.Context, path string) (rwc, error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w (the unit or user may need the group that owns its directory)", err)
			}
			return nil, fmt.Errorf("nix daemon: %w", err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("nix daemon: %s: backlog full: %w", path, context.Cause(ctx))
		}
	}
}

// A daemonChild is a nix-daemon of our own that serves a single connection. It opens the store itself.
type daemonChild struct {
	in, out *os.File // our ends of its standard input and output
	cmd     *exec.Cmd
	stderr  tail
	once    sync.Once
}

func startDaemon(bin, root string) (*daemonChild, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, err
	}
	defer outW.Close()
	d := &daemonChild{in: inW, out: outR, cmd: exec.Command(bin, "--stdio")}
	d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = inR, outW, &d.stderr
	remote := "NIX_REMOTE=local"
	if root != "" {
		remote += "?root=" + root
	}
	d.cmd.Env = append(os.Environ(), remote)
	d.cmd.WaitDelay = time.Second // for a grandchild that keeps standard error open
	if err := d.cmd.Start(); err != nil {
		inW.Close()
		outR.Close()
		return nil, fmt.Errorf("nix daemon: %w", err)
	}
	return d, nil
}

func (d *daemonChild) Read(p []byte) (int, error)  { return d.out.Read(p) }
func (d *daemonChild) Write(p []byte) (int, error) { return d.in.Write(p) }

func (d *daemonChild) SetDeadline(t time.Time) error {
	return errors.Join(d.in.SetDeadline(t), d.out.SetDeadline(t))
}

// Close ends the child at once: it only reads, so there is nothing to finish.
func (d *daemonChild) Close() error {
	d.once.Do(func() {
		_ = d.in.Close()
		_ = d.out.Close()
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait() // says that it was killed
	})
	return nil
}

// explain adds what the child has printed to err. It must be closed.
func (d *daemonChild) explain(err error) error {
	said := d.stderr.String()
	if i := strings.Index(said, "error:"); i >= 0 {
		said = said[i:] // what comes before are warnings
	}
	if said = firstLine(said); said != "" {
		err = fmt.Errorf("%w: %q", err, said)
	}
	return fmt.Errorf("no daemon listens, and one of our own, which only the owner of the store can use, fails: %w", err)
}

// A tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const limit = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
