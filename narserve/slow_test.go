package narserve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// A bubble is a server in synctest: its connections are pipes without buffers, and its clock is the bubble's.
type bubble struct {
	l   pipeListener
	srv *http.Server
	end chan struct{}
}

func newBubble(cfg narserve.Config) bubble {
	cfg.Hosts = []string{"nix"}
	b := bubble{pipeListener{make(chan net.Conn), make(chan struct{})}, narserve.New(cfg).HTTPServer(), make(chan struct{})}
	go func() { defer close(b.end); b.srv.Serve(b.l) }()
	return b
}

func (b bubble) dial() net.Conn {
	client, server := net.Pipe()
	b.l.conns <- server
	return client
}

func (b bubble) close() {
	b.srv.Close()
	<-b.end
}

// ask sends one request over a connection of its own and returns the status and how long the answer took.
func (b bubble) ask(t testing.TB, path string) (int, time.Duration) {
	t.Helper()
	c := b.dial()
	defer c.Close()
	began := time.Now()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: nix\r\nConnection: close\r\n\r\n"); err != nil {
		t.Error(err)
		return 0, 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	body(t, resp)
	return resp.StatusCode, time.Since(began)
}

// A misuse is a client that wastes a connection. It returns once the server has closed it.
type misuse struct {
	name   string
	do     func(c net.Conn, nar string)
	closed time.Duration // at the latest
}

var misuses = []misuse{
	{"says nothing", func(c net.Conn, _ string) { io.Copy(io.Discard, c) }, 10 * time.Second},
	{"stops in the middle of a header", func(c net.Conn, _ string) {
		io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: ni")
		io.Copy(io.Discard, c)
	}, 10 * time.Second},
	{"sends a byte a second", func(c net.Conn, _ string) {
		go io.Copy(io.Discard, c)
		trickle(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\nX: "+strings.Repeat("y", 1000))
	}, 11 * time.Second},
	{"sends a byte a second in its second request", func(c net.Conn, _ string) {
		go io.Copy(io.Discard, c)
		io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\n\r\n")
		trickle(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\nX: "+strings.Repeat("y", 1000))
	}, 15 * time.Second}, // the time begins with its fourth byte
	{"sends its body a byte a second", func(c net.Conn, _ string) {
		go io.Copy(io.Discard, c)
		io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\nContent-Length: 10000\r\n\r\n")
		trickle(c, strings.Repeat("y", 1000))
	}, 7 * time.Second},
	{"does not read an answer", func(c net.Conn, _ string) {
		io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\n\r\n")
		waitClosed(c)
	}, 10*time.Minute + time.Second},
	{"does not read a NAR", func(c net.Conn, nar string) {
		io.WriteString(c, "GET "+nar+" HTTP/1.1\r\nHost: nix\r\n\r\n")
		waitClosed(c)
	}, 10*time.Minute + time.Second},
	{"reads a NAR at 10 bytes a second", func(c net.Conn, nar string) {
		io.WriteString(c, "GET "+nar+" HTTP/1.1\r\nHost: nix\r\n\r\n")
		for buf := make([]byte, 10); ; time.Sleep(time.Second) {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}, 10*time.Minute + 2*time.Second},
	{"asks no more", func(c net.Conn, _ string) {
		io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\n\r\n")
		io.Copy(io.Discard, c)
	}, 3 * time.Minute},
}

func trickle(c net.Conn, text string) {
	for i := range len(text) {
		if _, err := c.Write([]byte{text[i]}); err != nil {
			return
		}
		time.Sleep(time.Second) // the bubble's
	}
}

// waitClosed returns once the other end has closed, without reading: a pipe takes no write then.
func waitClosed(c net.Conn) {
	for {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte{'\n'}); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// TestSlowClients has 500 of them at once. Each is let go in time, Nix is answered beside them, and nothing of them is
// left: a goroutine would keep the bubble from ending.
func TestSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 100_000)
		b := newBubble(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
		var left sync.WaitGroup
		for i := range 500 {
			m := misuses[i%len(misuses)]
			c := b.dial()
			left.Go(func() {
				began := time.Now()
				m.do(c, narPath(info))
				if dur := time.Since(began); dur > m.closed {
					t.Errorf("a client that %s is let go after %v, want %v at most", m.name, dur, m.closed)
				}
				c.Close()
			})
		}
		for range 100 {
			for _, path := range []string{"/nix-cache-info", narinfoPath(info), narPath(info)} {
				if status, dur := b.ask(t, path); status != 200 || dur > time.Second {
					t.Errorf("beside slow clients: %s = %d after %v, want 200 at once", path, status, dur)
				}
			}
			time.Sleep(7 * time.Second)
		}
		left.Wait()
		b.close()
		w.wantIdle(t)
	})
}

// TestEndlessHeaders has 500 clients send headers for as long as they are read, and never end them.
func TestEndlessHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(narserve.Config{})
		var before, during runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var took atomic.Int64
		var left sync.WaitGroup
		line := []byte("X: " + strings.Repeat("y", 1000) + "\r\n")
		for range 500 {
			c := b.dial()
			io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\n")
			left.Go(func() {
				for range 15 { // just below the limit, for now
					c.Write(line)
				}
				time.Sleep(time.Second)
				go func() {
					for n, err := 0, error(nil); err == nil; took.Add(int64(n)) {
						n, err = c.Write(line)
					}
				}()
				text, err := io.ReadAll(c)
				if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 431 ") {
					t.Errorf("endless headers are answered with %.100q, %v, want 431 and the end", text, err)
				}
				c.Close()
			})
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&during)
		if each := (int64(during.HeapAlloc+during.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / 500; each > 100<<10 {
			t.Errorf("a connection with 15 KiB of headers costs %d KiB, want 100 at most", each>>10)
		}
		left.Wait()
		if each := took.Load() / 500; each > 32<<10 {
			t.Errorf("%d bytes were read of each, want 32 KiB at most", each)
		}
		b.close()
	})
}

// TestTooManyConnections: an idle connection is closed to make room, one that waits for an answer stays.
func TestTooManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 10)
		release := make(chan struct{})
		src := &probe{inner: w.local()}
		src.fetch = func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
			<-release
			return src.inner.Fetch(ctx, m)
		}
		b := newBubble(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
		answered := make(chan int)
		go func() {
			status, _ := b.ask(t, narPath(info))
			answered <- status
		}()
		synctest.Wait()
		var closed atomic.Int64
		for i := range 5000 {
			c := b.dial()
			if i%2 == 0 {
				io.WriteString(c, "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\n\r\n") // and then idle
			}
			go func() { io.Copy(io.Discard, c); closed.Add(1) }()
			if i%500 == 499 {
				if status, dur := b.ask(t, narinfoPath(info)); status != 200 || dur != 0 {
					t.Errorf("beside %d connections: narinfo = %d after %v, want 200 at once", i+1, status, dur)
				}
			}
		}
		synctest.Wait()
		if open := 5000 - closed.Load(); open < 2000 || open > 2048 {
			t.Errorf("of 5000 idle connections %d are open, want about 2048", open)
		}
		close(release)
		if status := <-answered; status != 200 {
			t.Errorf("the NAR that was asked for first = %d, want 200", status)
		}
		time.Sleep(time.Hour) // the bubble's
		if closed.Load() != 5000 {
			t.Errorf("%d of 5000 connections are closed after an hour", closed.Load())
		}
		b.close()
	})
}

// TestEverybodyIsAsking: where no connection is idle, the newest is closed, not one that is being answered.
func TestEverybodyIsAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 10)
		release := make(chan struct{})
		src := &probe{inner: w.local(), fetch: func(context.Context, trust.Mapping) (*spool.NAR, error) {
			<-release
			return nil, store.ErrNotFound
		}}
		b := newBubble(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
		var answered, refused atomic.Int64
		for range 2100 {
			c := b.dial()
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: nix\r\nConnection: close\r\n\r\n", narPath(info))
				if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
					refused.Add(1)
				} else {
					answered.Add(1)
				}
			}()
			synctest.Wait()
		}
		close(release)
		synctest.Wait()
		if answered.Load() != 2048 || refused.Load() != 52 {
			t.Errorf("of 2100 requests at once %d were answered and %d refused, want 2048 and 52", answered.Load(), refused.Load())
		}
		b.close()
	})
}
