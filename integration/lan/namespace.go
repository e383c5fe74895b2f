package lan

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	netOnly = unix.CLONE_NEWNET
	machine = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS
)

// commandTimeout bounds a command in the foreground. It is much longer than any such command takes, even on a computer
// with three other builds or tests.
const commandTimeout = 4 * time.Minute

// A namespace is a set of kernel namespaces, kept by a process that ends when this one does.
type namespace struct {
	kind   int // CLONE_* flags
	keeper *exec.Cmd
	stdin  io.Closer // closing it ends the keeper process
	pidfd  int
}

func newNamespace(kind int) (*namespace, error) {
	keeper := exec.Command("cat")
	// Go makes the mounts of an unshared namespace private; of a cloned one it would not.
	keeper.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   uintptr(kind &^ unix.CLONE_NEWNS),
		Unshareflags: uintptr(kind & unix.CLONE_NEWNS),
		Setsid:       true, // Ctrl-C must reach the test only, which then closes the namespace
	}
	stdin, err := keeper.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := keeper.Start(); err != nil {
		return nil, err
	}
	n := &namespace{kind: kind, keeper: keeper, stdin: stdin}
	n.pidfd, err = unix.PidfdOpen(keeper.Process.Pid, 0)
	if err != nil {
		n.pidfd = -1
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	return n, nil
}

func (n *namespace) pid() int { return n.keeper.Process.Pid }

func (n *namespace) close() error {
	n.stdin.Close()
	err := n.keeper.Wait()
	unix.Close(n.pidfd)
	return err
}

// do calls f on a thread inside the namespace, which ends afterwards. Children that f starts are inside too.
func (n *namespace) do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: Go ends the thread with the goroutine
		errc <- func() error {
			if n.kind&unix.CLONE_NEWNS != 0 {
				if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns requires a root directory that is not shared
					return fmt.Errorf("unshare: %w", err)
				}
			}
			if err := unix.Setns(n.pidfd, n.kind); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
			return f()
		}()
	}()
	return <-errc
}

// A command is a process to be started inside.
type command struct {
	args   []string
	chroot string // "" is none
	env    []string
	stdin  io.Reader // nil is /dev/null
	uid    uint32
	files  []*os.File   // become file descriptors 3, 4, …
	line   func(string) // called with each line of the standard error as it is written; may be nil
}

func (c command) cmd(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Env = slices.Concat([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}, c.env)
	cmd.ExtraFiles = c.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.chroot}
	if c.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.uid, Gid: c.uid}
	}
	cmd.Dir = "/"
	cmd.Stdin = c.stdin
	cmd.WaitDelay = 5 * time.Second // a grandchild may keep the output open
	return cmd
}

// run runs c to its end, or to ctx's deadline, or for commandTimeout if ctx has none, and returns its standard output.
// Its error has the standard error in it.
func (n *namespace) run(ctx context.Context, c command) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, AtMost(commandTimeout))
		defer cancel()
	}
	cmd := c.cmd(ctx)
	stdout, stderr := new(bytes.Buffer), &lines{each: c.line}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := n.do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(c.args, " "), err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(c.args, " "), err, tail(stdout.String()), tail(stderr.all.String()))
	}
	return stdout.String(), nil
}

// A lines buffers everything that is written to it and calls each with each complete line.
type lines struct {
	all  bytes.Buffer
	told int // bytes of all
	each func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.all.Write(p)
	for l.each != nil {
		line, _, ended := bytes.Cut(l.all.Bytes()[l.told:], []byte("\n"))
		if !ended {
			break
		}
		l.told += len(line) + 1
		l.each(string(line))
	}
	return len(p), nil
}

// tail returns the last part of a command's output, for error messages.
func tail(s string) string {
	const most = 8 << 10
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}
