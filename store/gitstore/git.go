package gitstore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"narbor/store"
)

const (
	// maxProcesses bounds the processes that read objects of one repository at a time.
	maxProcesses = 2
	// objectTimeout bounds the wait for one object: a disk that needs longer is as good as broken.
	objectTimeout = 30 * time.Second
	// maxTreeBytes and maxBlobBytes bound the objects that are held in memory. GitHub takes no file above 100 MiB.
	maxTreeBytes, maxBlobBytes = 16 << 20, 32 << 20
	// maxProcessData bounds the memory of a process, pages of the packs not counted: a delta may need a base of any
	// size.
	maxProcessData = 1 << 30
	// atOnce is how many objects are asked for before the first answer is read: their IDs fit into a pipe.
	atOnce = 500
)

// An oid is the bytes of an object's ID: 20, or 32 in a repository with SHA-256.
type oid string

func (o oid) String() string { return hex.EncodeToString([]byte(o)) }

func parseOID(s string) (oid, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 20 && len(b) != 32 {
		return "", fmt.Errorf("%.80q is no object ID", s)
	}
	return oid(b), nil
}

// errTooLarge is the error of a tree or a file beyond the limits.
var errTooLarge = errors.New("too large")

// A git runs the git program for the objects of one repository. That program sees a repository of narbor's own, without
// refs, to which the other one's folder of objects is an alternate: so it neither reads that one's configuration,
// hooks, grafts and replacements, nor asks for the owner of its files, nor has a remote from which it could fetch what
// is missing.
type git struct {
	program string
	own     string // the repository of narbor's own
	objects string // of the other one

	slots chan struct{}

	mu     sync.Mutex            // guards the rest
	idle   map[string][]*catFile // by mode
	busy   map[*catFile]bool
	closed bool
}

// prepare writes the repository of narbor's own for objects in a folder, with IDs of so many bytes.
func (g *git) prepare(idLen int, shallow []byte) error {
	if strings.ContainsAny(g.objects, "\n\r") {
		return fmt.Errorf("%.80q: a name with a line feed", g.objects)
	}
	config := "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
	if idLen == 32 {
		config = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n"
	}
	config += "[core]\n\tpackedGitWindowSize = 32m\n\tpackedGitLimit = 256m\n\tdeltaBaseCacheLimit = 16m\n[protocol]\n\tallow = never\n"
	for _, dir := range []string{"objects/info", "refs"} {
		if err := os.MkdirAll(filepath.Join(g.own, dir), 0o700); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"HEAD": "ref: refs/heads/none\n", "config": config, "shallow": string(shallow),
		"objects/info/alternates": g.objects + "\n"} {
		name = filepath.Join(g.own, name)
		if have, err := os.ReadFile(name); err == nil && string(have) == text {
			continue
		}
		if text == "" {
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			continue
		}
		if err := replace(name, text); err != nil { // a process may be reading it
			return err
		}
	}
	return nil
}

// replace writes a file whole. It is made anew at the next start, and so need not last.
func replace(name, text string) error {
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// command returns a command of git's that neither reads further configuration nor uses a network.
func (g *git) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, g.program, append([]string{"--no-pager"}, args...)...)
	cmd.Dir, cmd.WaitDelay = g.own, time.Second
	cmd.Env = []string{"GIT_DIR=" + g.own, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/",
		"GIT_NO_LAZY_FETCH=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=none",
		"LC_ALL=C"}
	return cmd
}

// lines runs a command with that input, and hands each line of its output to each until that returns an error.
func (g *git) lines(ctx context.Context, input string, each func(line string) error, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := g.command(ctx, args...)
	var problem bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &limited{&problem, 1000}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := startProcess(cmd); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if err = each(lines.Text()); err != nil {
			cancel()
			break
		}
	}
	if waited := cmd.Wait(); err == nil && (waited != nil || lines.Err() != nil) {
		err = fmt.Errorf("git %s: %w: %s", args[0], errors.Join(waited, lines.Err()), strings.TrimSpace(problem.String()))
	}
	return err
}

// limited drops all that follows so many written bytes.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, err := l.w.Write(p[:n])
	return len(p), err
}

// A catFile is a process that answers questions about objects, one caller at a time.
type catFile struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	in     io.WriteCloser
	out    *bufio.Reader
}

// errClosed is the error of reading objects after [Store.Close].
var errClosed = errors.New("the repository is closed")

// A query asks for objects of a kind, and hands each to each in the order asked.
type query struct {
	kind  string
	most  int64 // bytes of an object
	sizes bool  // sizes alone are asked for, and bodies are nil
	each  func(id oid, size int64, body []byte) error
}

func (g *git) read(ids []oid, q query) error {
	g.slots <- struct{}{}
	defer func() { <-g.slots }()
	if len(ids) == 0 {
		return nil
	}
	mode := "--batch"
	if q.sizes {
		mode = "--batch-check"
	}
	c, err := g.take(mode)
	if err != nil {
		return err
	}
	err = c.ask(ids, q)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.busy, c)
	if err != nil || g.closed {
		c.end()
		return err
	}
	if g.idle == nil {
		g.idle = map[string][]*catFile{}
	}
	g.idle[mode] = append(g.idle[mode], c)
	return nil
}

// take returns a process, and notes it as busy.
func (g *git) take(mode string) (c *catFile, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errClosed
	}
	if n := len(g.idle[mode]); n > 0 {
		c, g.idle[mode] = g.idle[mode][n-1], g.idle[mode][:n-1]
	} else if c, err = g.start(mode); err != nil {
		return nil, err
	}
	if g.busy == nil {
		g.busy = map[*catFile]bool{}
	}
	g.busy[c] = true
	return c, nil
}

func (g *git) start(mode string) (*catFile, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &catFile{cmd: g.command(ctx, "cat-file", mode), cancel: cancel}
	in, err := c.cmd.StdinPipe()
	var out io.ReadCloser
	if err == nil {
		out, err = c.cmd.StdoutPipe()
	}
	if err == nil {
		err = startProcess(c.cmd)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	c.in, c.out = in, bufio.NewReaderSize(out, 64<<10)
	return c, nil
}

// startProcess starts a command with a limit on its memory.
func startProcess(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	limitMemory(cmd.Process.Pid, maxProcessData)
	return nil
}

func (c *catFile) end() {
	c.cancel()
	_ = c.in.Close()
	_ = c.cmd.Wait() // it was killed
}

// stop ends the idle processes, and with forever those that are at work, too, which fails for their callers.
func (g *git) stop(forever bool) {
	g.mu.Lock()
	idle := g.idle
	g.idle, g.closed = nil, g.closed || forever
	for c := range g.busy {
		if forever {
			c.cancel()
		}
	}
	g.mu.Unlock()
	for _, some := range idle {
		for _, c := range some {
			c.end()
		}
	}
}

func (c *catFile) ask(ids []oid, q query) error {
	for len(ids) > 0 {
		some := ids[:min(len(ids), atOnce)]
		ids = ids[len(some):]
		var b strings.Builder
		for _, id := range some {
			b.WriteString(id.String() + "\n")
		}
		stuck := time.AfterFunc(objectTimeout, c.cancel)
		_, err := io.WriteString(c.in, b.String())
		stuck.Stop()
		if err != nil {
			return fmt.Errorf("git cat-file has ended: %w", err)
		}
		for _, id := range some {
			if err := c.answer(id, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *catFile) answer(id oid, q query) error {
	stuck := time.AfterFunc(objectTimeout, c.cancel)
	defer stuck.Stop()
	line, err := c.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("object %s cannot be read: %w", id, store.ErrCorrupt)
	}
	words := strings.Fields(line)
	if len(words) != 3 || words[0] != id.String() {
		return fmt.Errorf("object %s is missing: %w", id, store.ErrCorrupt)
	}
	size, err := strconv.ParseInt(words[2], 10, 64)
	switch {
	case words[1] != q.kind || err != nil || size < 0:
		return fmt.Errorf("object %s is a %.20s, not a %s: %w", id, words[1], q.kind, store.ErrCorrupt)
	case size > q.most:
		return fmt.Errorf("object %s has %d bytes, and %d are the most for a %s: %w", id, size, q.most, q.kind, errTooLarge)
	case q.sizes:
		return q.each(id, size, nil)
	}
	body := make([]byte, size+1)
	if _, err := io.ReadFull(c.out, body); err != nil || body[size] != '\n' {
		return fmt.Errorf("object %s cannot be read to its end: %w", id, store.ErrCorrupt)
	}
	return q.each(id, size, body[:size:size])
}
