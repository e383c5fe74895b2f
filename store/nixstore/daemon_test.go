package nixstore_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nix-community/go-nix/pkg/wire"

	"narbor/store"
	"narbor/store/nixstore"
	"narbor/store/storetest"
)

const (
	hpCurl   = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
	pathCurl = "/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin"
	pathLibc = "/nix/store/6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115"
	sigCurl  = "cache.nixos.org-1:TsTTb3WGTZKphvYdBHXwo6weVILmTytUjLB+vcX89fOjjRicCHmKA4RCPMVLkj6TMJ4GMX3HPVWRdD1hkeKZBQ=="
	hexHash  = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// Messages of the protocol, which the tests write themselves.
const (
	msgNext  = 0x6f6c6d67
	msgLast  = 0x616c7473
	msgError = 0x63787470
	msgStart = 0x53545254
	msgStop  = 0x53544f50
	msgRes   = 0x52534c54
)

// frames encodes integers and strings in Nix's framing; []string is a list.
func frames(items ...any) []byte {
	var b bytes.Buffer
	for _, item := range items {
		switch v := item.(type) {
		case int:
			_ = wire.WriteUint64(&b, uint64(v))
		case string:
			_ = wire.WriteString(&b, v)
		case []string:
			_ = wire.WriteUint64(&b, uint64(len(v)))
			for _, s := range v {
				_ = wire.WriteString(&b, s)
			}
		case []byte:
			b.Write(v)
		}
	}
	return b.Bytes()
}

// A twin is a daemon in memory: it greets with a version, and answers each operation with the given bytes. An answer
// of nil hangs up; one in stuck is never sent.
type twin struct {
	version int
	answers map[int][]byte
	stuck   map[int]bool
	conns   atomic.Int32 // accepted so far
	open    atomic.Int32
	asked   atomic.Int32  // operations
	hangUp  atomic.Bool   // close the connection after one operation
	greets  int           // that many connections get an answer, the others none; 0: all
	answer  chan struct{} // an operation is answered once this is closed; nil: at once
}

func pathInfoReply(sigs ...string) []byte {
	return frames(msgLast, 1, "", hexHash, []string{pathLibc, pathCurl, pathLibc}, 1, 196040, 0, sigs, "")
}

func newTwin() *twin {
	return &twin{version: 1<<8 | 35, answers: map[int][]byte{
		11: frames(msgLast, 1),
		23: frames(msgLast, []string{pathLibc, pathCurl}),
		26: pathInfoReply(sigCurl),
		29: frames(msgLast, pathCurl),
		31: frames(msgLast, []string{pathCurl}),
	}}
}

// serve speaks the daemon's side of the protocol on one connection.
func (d *twin) serve(conn net.Conn) {
	nth := int(d.conns.Add(1))
	d.open.Add(1)
	defer d.open.Add(-1)
	defer conn.Close()
	r := bufio.NewReader(conn)
	if d.greets > 0 && nth > d.greets {
		_, _ = io.Copy(io.Discard, r) // until the client hangs up
		return
	}
	word := func() int { n, _ := wire.ReadUint64(r); return int(n) }
	word()
	conn.Write(frames(0x6478696f, d.version))
	word()
	word()
	word()
	v := min(d.version, 1<<8|35)
	if v >= 1<<8|33 {
		conn.Write(frames("2.18.1"))
	}
	if v >= 1<<8|35 {
		conn.Write(frames(2))
	}
	conn.Write(frames(msgLast))
	for {
		op, err := wire.ReadUint64(r)
		if err != nil {
			return
		}
		switch op {
		case 11, 26, 29, 33:
			wire.ReadString(r, 1000)
		case 31:
			for range word() {
				wire.ReadString(r, 1000)
			}
			if v >= 1<<8|27 {
				word()
			}
		}
		d.asked.Add(1)
		answer := d.answers[int(op)]
		if d.stuck[int(op)] {
			_, _ = r.ReadByte() // until the client hangs up
			return
		}
		if answer == nil {
			return
		}
		if d.answer != nil {
			<-d.answer
		}
		conn.Write(answer)
		if d.hangUp.Load() {
			return
		}
	}
}

// listen makes a chroot store and opens it; serve handles the connections to its daemon.
func listen(t *testing.T, serve func(net.Conn)) (nixstore.Config, net.Listener) {
	t.Helper()
	root := t.TempDir()
	storetest.Must(t, os.MkdirAll(root+"/nix/store", 0o755))
	l, err := net.Listen("unix", filepath.Join(root, "s"))
	storetest.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return nixstore.Config{Root: root, Socket: filepath.Join(root, "s")}, l
}

func openTwin(t *testing.T, d *twin) *nixstore.Store {
	t.Helper()
	cfg, _ := listen(t, d.serve)
	n, err := nixstore.Open(t.Context(), cfg)
	storetest.Must(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

func TestEveryProtocolVersion(t *testing.T) {
	for _, minor := range []int{18, 21, 24, 26, 27, 32, 33, 34, 35, 37, 38, 39, 200} {
		d := newTwin()
		d.version = 1<<8 | minor
		noise := frames(msgNext, "log", msgStart, 1, 2, 3, "building", 2, 0, 7, 1, "x", 0, msgRes, 1, 2, 1, 1, "y", msgStop, 1)
		for op, answer := range d.answers {
			d.answers[op] = slices.Concat(noise, answer)
		}
		n := openTwin(t, d)
		info, err := n.Info(t.Context(), hpCurl)
		if err != nil || info.Path.String() != pathCurl || info.NarSize != 196040 || len(info.Signatures) != 1 {
			t.Errorf("1.%d: Info = %+v, %v", minor, info, err)
		}
		if len(info.References) != 2 || info.References[0].String() != pathLibc || info.References[1] != info.Path {
			t.Errorf("1.%d: references = %v, want both, sorted and once", minor, info.References)
		}
		if all, err := n.AllValidPaths(t.Context()); err != nil || len(all) != 2 || all[0].String() != pathLibc {
			t.Errorf("1.%d: AllValidPaths = %v, %v", minor, all, err)
		}
		if valid, err := n.ValidPaths(t.Context(), info.References); err != nil || len(valid) != 1 || valid[0] != info.Path {
			t.Errorf("1.%d: ValidPaths = %v, %v", minor, valid, err)
		}
		if c := d.conns.Load(); c != 1 {
			t.Errorf("1.%d: %d connections, want 1", minor, c)
		}
	}
}

func TestGreetingsRefused(t *testing.T) {
	for name, greeting := range map[string][]byte{
		"nothing":        nil,
		"half a word":    {1, 2, 3},
		"http":           []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"wrong magic":    frames(0x6478696e, 1<<8|35, "2.18", 0, msgLast),
		"too old":        frames(0x6478696f, 1<<8|17, msgLast),
		"another major":  frames(0x6478696f, 2<<8|35, "x", 0, msgLast),
		"huge version":   frames(0x6478696f, 1<<8|35, 1<<40),
		"length -1":      frames(0x6478696f, 1<<8|35, -1),
		"cut off":        frames(0x6478696f, 1<<8|35, "2.18", 0),
		"error":          frames(0x6478696f, 1<<8|35, "2.18", 0, msgError, "Error", 0, "x", "go away", 0, 0),
		"unknown":        frames(0x6478696f, 1<<8|35, "2.18", 0, 77),
		"wrong padding":  slices.Concat(frames(0x6478696f, 1<<8|35, 1), []byte("axxxxxxx"), frames(0, msgLast)),
		"list too long":  frames(0x6478696f, 1<<8|35, "2.18", 0, msgRes, 1, 1, 1<<30),
		"unknown field":  frames(0x6478696f, 1<<8|35, "2.18", 0, msgRes, 1, 1, 1, 2, msgLast),
		"endless traces": frames(0x6478696f, 1<<8|35, "2.18", 0, msgError, "Error", 0, "x", "m", 0, -1),
	} {
		cfg, _ := listen(t, func(conn net.Conn) {
			conn.Write(greeting)
			conn.(*net.UnixConn).CloseWrite()
			io.Copy(io.Discard, conn)
			conn.Close()
		})
		n, err := nixstore.Open(t.Context(), cfg)
		if err == nil {
			n.Close()
			t.Errorf("%s: Open succeeded", name)
		} else if errors.Is(err, nixstore.ErrNoNix) || errors.Is(err, io.EOF) {
			t.Errorf("%s: Open = %v", name, err)
		}
	}
}

func TestAnswersRefused(t *testing.T) {
	good := pathInfoReply(sigCurl)
	for name, answer := range map[string][]byte{
		"hangs up":          nil,
		"huge string":       frames(msgLast, 1, 1<<62),
		"length -1":         frames(msgLast, 1, -1),
		"65 KiB deriver":    frames(msgLast, 1, strings.Repeat("x", 65<<10), hexHash, 0, 1, 5, 0, 0, ""),
		"huge list":         frames(msgLast, 1, "", hexHash, 1<<40),
		"list cut off":      frames(msgLast, 1, "", hexHash, 60000, pathCurl),
		"md5":               frames(msgLast, 1, "", hexHash[:32], 0, 1, 5, 0, 0, ""),
		"no hash":           frames(msgLast, 1, "", "", 0, 1, 5, 0, 0, ""),
		"size 0":            frames(msgLast, 1, "", hexHash, 0, 1, 0, 0, 0, ""),
		"size -1":           frames(msgLast, 1, "", hexHash, 0, 1, -1, 0, 0, ""),
		"size over limit":   frames(msgLast, 1, "", hexHash, 0, 1, store.MaxNarSize+1, 0, 0, ""),
		"reference to /":    frames(msgLast, 1, "", hexHash, []string{"/"}, 1, 5, 0, 0, ""),
		"relative":          frames(msgLast, 1, "", hexHash, []string{pathCurl[11:]}, 1, 5, 0, 0, ""),
		"wrong padding":     slices.Concat(frames(msgLast, 1, 1), []byte("a\x00\x00\x00\x00\x00\x00\x01"), good[24:]),
		"too many refs":     frames(msgLast, 1, "", hexHash, slices.Repeat([]string{pathCurl}, 1<<16+1), 1, 5, 0, 0, ""),
		"unknown message":   slices.Concat(frames(77), good),
		"error":             frames(msgError, "Error", 0, "x", "no such thing", 0, 0),
		"error, traces":     frames(msgError, "Error", 0, "x", "no such thing", 0, 1, 0, "while"),
		"not a message":     frames(0),
		"more than a reply": slices.Concat(good, frames(msgLast)),
	} {
		d := newTwin()
		d.answers[26] = answer
		d.hangUp.Store(true)
		n := openTwin(t, d)
		if info, err := n.Info(t.Context(), hpCurl); err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, io.EOF) {
			t.Errorf("%s: Info = %+v, %v, want an error of its own", name, info, err)
		}
	}
	for cut := range good {
		if info, err := nixstore.ReadPathInfo(bytes.NewReader(good[:cut]), 1<<8|35, pathCurl); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("cut at %d of %d: %+v, %v, want an error", cut, len(good), info, err)
		}
	}
}

func TestInfoOfAnotherPathIsRefused(t *testing.T) {
	for _, answer := range []string{pathLibc, "/", "/nix/store", pathCurl + "/bin", pathCurl[11:]} {
		d := newTwin()
		d.answers[29] = frames(msgLast, answer)
		if info, err := openTwin(t, d).Info(t.Context(), hpCurl); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Info where the daemon answers %q = %+v, %v, want an error", answer, info, err)
		}
	}
}

func TestInfoNotFound(t *testing.T) {
	for op, answer := range map[int][]byte{29: frames(msgLast, ""), 26: frames(msgLast, 0)} {
		d := newTwin()
		d.answers[op] = answer
		if info, err := openTwin(t, d).Info(t.Context(), hpCurl); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Info = %+v, %v, want ErrNotFound", info, err)
		}
	}
}

func TestDaemonErrorIsToldInOneLine(t *testing.T) {
	d := newTwin()
	d.answers[29] = frames(msgError, "Error", 0, "x", "\x1b[31;1merror:\x1b[0m the\x00 disk is full\nsecond line", 0, 0)
	_, err := openTwin(t, d).Info(t.Context(), hpCurl)
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || strings.ContainsAny(err.Error(), "\x1b\x00\n") {
		t.Errorf("Info = %q, want the daemon's message on one line", err)
	}
}

func TestSignaturesAreLimited(t *testing.T) {
	d := newTwin()
	d.answers[26] = pathInfoReply(slices.Repeat([]string{"a:b"}, 5000)...)
	info, err := openTwin(t, d).Info(t.Context(), hpCurl)
	if err != nil || len(info.Signatures) != 64 {
		t.Errorf("Info with 5000 signatures has %d, %v, want 64", len(info.Signatures), err)
	}
}

// TestDaemonRestart hangs up after every operation: the pool holds a dead connection each time.
func TestDaemonRestart(t *testing.T) {
	d := newTwin()
	d.hangUp.Store(true)
	n := openTwin(t, d)
	for range 5 {
		if _, err := n.Info(t.Context(), hpCurl); err != nil {
			t.Fatalf("Info after the daemon hung up = %v", err)
		}
	}
}

func TestStuckDaemon(t *testing.T) {
	d := newTwin()
	d.stuck = map[int]bool{29: true, 11: true}
	n := openTwin(t, d)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := n.Info(ctx, hpCurl); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Info of a stuck daemon = %v, want DeadlineExceeded", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer time.AfterFunc(10*time.Millisecond, cancel).Stop()
	p, err := store.ParsePath(pathCurl)
	storetest.Must(t, err)
	if _, err := n.NAR(ctx, store.Info{Path: p, NarSize: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("NAR of a stuck daemon = %v, want Canceled", err)
	}
	if all, err := n.AllValidPaths(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("AllValidPaths after that = %v, %v", all, err)
	}
}

// TestStuckDaemonWithoutDeadline waits with a context that never ends, in a time of our own.
func TestStuckDaemonWithoutDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTwin()
		d.stuck = map[int]bool{29: true}
		n := d.pipes()
		defer n.Close()
		if _, err := n.Info(context.Background(), hpCurl); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Info of a stuck daemon = %v, want ErrDeadlineExceeded", err)
		}
	})
}

func TestNoArchiveWithoutRoot(t *testing.T) {
	d := newTwin()
	d.answers[11] = frames(msgError, "Error", 0, "x", "no more roots", 0, 0)
	n := openTwin(t, d)
	info, err := n.Info(t.Context(), hpCurl)
	storetest.Must(t, err)
	if _, err := n.NAR(t.Context(), info); err == nil || !strings.Contains(err.Error(), "no more roots") {
		t.Errorf("NAR = %v, want the daemon's error about the root", err)
	}
}

// TestStuckPool fills all the pool's connections with requests that never end.
func TestStuckPool(t *testing.T) {
	d := newTwin()
	d.stuck = map[int]bool{29: true}
	n := openTwin(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	for range 20 {
		go func() {
			_, err := n.Info(ctx, hpCurl)
			errs <- err
		}()
	}
	for limit := time.Now().Add(storetest.AtMost(20 * time.Second)); d.open.Load() < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) { // the twin runs on a real socket
			t.Fatalf("%d connections are open, want 4", d.open.Load())
		}
	}
	cancel()
	for range 20 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("Info = %v, want Canceled", err)
		}
	}
	if c := d.conns.Load(); c > 4+1 {
		t.Errorf("%d connections were made, want at most 4", c)
	}
}

// pipes returns a store on a twin, for a test in a time of its own.
func (d *twin) pipes() *nixstore.Store {
	return nixstore.NewNixOn(func() net.Conn {
		client, server := net.Pipe()
		go d.serve(server)
		return client
	})
}

// A busy machine takes long to start a process for another connection, and is asked about several paths at once.
func TestConnectionThatIsSlowToComeHoldsUpNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTwin()
		d.greets = 1
		n := d.pipes()
		defer n.Close()
		start := time.Now()
		errs := make(chan error)
		for range 20 {
			go func() {
				_, err := n.Info(t.Context(), hpCurl)
				errs <- err
			}()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Errorf("Info beside connections that are never greeted = %v", err)
			}
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("20 requests took %v, want no wait for a second connection", d)
		}
		if c := d.conns.Load(); c < 2 || c > 4 {
			t.Errorf("%d connections were begun, want 2 to 4", c)
		}
	})
}

func TestRequestWithoutItsCallerKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTwin()
		d.answer = make(chan struct{})
		n := d.pipes()
		defer n.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Info(ctx, hpCurl); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Info that is answered late = %v, want DeadlineExceeded", err)
		}
		close(d.answer)
		synctest.Wait()
		if _, err := n.Info(t.Context(), hpCurl); err != nil {
			t.Error(err)
		}
		if c := d.conns.Load(); c != 1 {
			t.Errorf("%d connections were made, want 1", c)
		}
	})
}

func TestNothingIsAskedForACallerThatHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTwin()
		n := d.pipes()
		defer n.Close()
		if _, err := n.Info(t.Context(), hpCurl); err != nil {
			t.Fatal(err)
		}
		asked := d.asked.Load()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := n.Info(ctx, hpCurl); !errors.Is(err, context.Canceled) {
			t.Errorf("Info = %v, want Canceled", err)
		}
		synctest.Wait()
		if more := d.asked.Load() - asked; more > 0 {
			t.Errorf("the daemon was asked %d times", more)
		}
	})
}

func TestCloseEndsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTwin()
		d.stuck, d.greets = map[int]bool{29: true}, 2
		n := d.pipes()
		errs := make(chan error)
		for range 20 {
			go func() {
				_, err := n.Info(context.Background(), hpCurl)
				errs <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		n.Close()
		for range 20 {
			if err := <-errs; !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Info while the store is closed = %v, want ErrClosed", err)
			}
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("the end of the requests took %v", d)
		}
		if _, err := n.Info(t.Context(), hpCurl); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Info after Close = %v, want ErrClosed", err)
		}
		synctest.Wait()
		if c := d.open.Load(); c != 0 {
			t.Errorf("%d connections are open after Close", c)
		}
	})
}

func TestNoNix(t *testing.T) {
	root := t.TempDir()
	if _, err := nixstore.Open(t.Context(), nixstore.Config{Root: root}); !errors.Is(err, nixstore.ErrNoNix) {
		t.Errorf("Open without a store = %v, want ErrNoNix", err)
	}
	storetest.Must(t, os.MkdirAll(root+"/nix/store", 0o755))
	storetest.Must(t, os.MkdirAll(root+"/nix/var/nix/db", 0o755))
	storetest.Must(t, os.WriteFile(root+"/nix/var/nix/db/db.sqlite", nil, 0o644))
	t.Setenv("PATH", root)
	_, err := nixstore.Open(t.Context(), nixstore.Config{Root: root})
	if err == nil || errors.Is(err, nixstore.ErrNoNix) || !strings.Contains(err.Error(), "nix-daemon") {
		t.Errorf("Open with a store but no daemon = %v, want an error about nix-daemon", err)
	}
}

func FuzzDaemonAnswer(f *testing.F) {
	f.Add(pathInfoReply(sigCurl))
	f.Add(frames(msgNext, "x", msgError, "Error", 0, "x", "y", 0, 1, 0, "z"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) == 0 {
			return
		}
		info, err := nixstore.ReadPathInfo(bytes.NewReader(answer), 1<<8|35, pathCurl)
		if err == nil && (info.NarSize < 1 || info.NarSize > store.MaxNarSize) {
			t.Errorf("PathInfo from %x = %+v", answer, info)
		}
	})
}
