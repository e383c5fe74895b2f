package narserve_test

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"narbor/narserve"
	"narbor/store/storetest"
)

// openFiles counts this process's file descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc:", err)
	}
	return len(entries)
}

// crowd opens n connections to addr, each of which sends the next of texts and then nothing.
func crowd(t testing.TB, addr string, n int, texts ...string) []net.Conn {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(2*n+500) {
		t.Skipf("%d connections need more file descriptors than the %d that are allowed", n, limit.Cur)
	}
	var cs []net.Conn
	for i := range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, texts[i%len(texts)]); err != nil {
			t.Fatal(err)
		}
		cs = append(cs, c)
	}
	return cs
}

// eventually waits for a number to come back to what it was, give or take a few of the runtime's own.
func eventually(t testing.TB, what string, now func() int, was int) {
	t.Helper()
	for deadline := time.Now().Add(storetest.AtMost(20 * time.Second)); now() > was+5; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("there are %d %s, want %d as before", now(), what, was)
			return
		}
	}
}

// TestHalfOpenClientsLeaveNothingBehind has the time for a header cut short; TestIdleClientsAreLetGo is about its
// length.
func TestHalfOpenClientsLeaveNothingBehind(t *testing.T) {
	srv := narserve.New(narserve.Config{}).HTTPServer()
	srv.ReadHeaderTimeout = time.Second
	srv.IdleTimeout = time.Second
	addr := serve(t, srv)
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	cs := crowd(t, addr, 500, "", "GET / HT", "GET /nix-cache-info HTTP/1.1\r\nHost: "+addr+"\r\n",
		"GET /x HTTP/1.1\r\nHost: "+addr+"\r\n\r\n")
	for _, c := range cs {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // without, the test would hang instead of fail
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("a half-open connection is not closed: %v", err)
		}
	}
	eventually(t, "file descriptors", func() int { return openFiles(t) }, files+len(cs))
	for _, c := range cs {
		c.Close()
	}
	eventually(t, "file descriptors", func() int { return openFiles(t) }, files)
	eventually(t, "goroutines", runtime.NumGoroutine, goroutines)
}

// TestRealNixBesideACrowd has 1,000 connections that ask for NARs and do not read them, or do not end their requests.
func TestRealNixBesideACrowd(t *testing.T) {
	w := newWorld(t)
	big, bigNAR := w.add(t, "big", 20<<20)
	top, topNAR := w.add(t, "top", 5000, big.Path)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	addr := startServer(t, s)
	c := newNixClient(t, w.publicKey(), "http://"+addr)
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	end := " HTTP/1.1\r\nHost: " + addr + "\r\n"
	cs := crowd(t, addr, 1000, "", "GET / HT", "GET "+narPath(big)+end, "GET "+narPath(big)+end+"\r\n", "GET "+narinfoPath(top)+end+"\r\n")
	if out, err := c.run(t, "nix-store", "--store", c.root, "-r", top.Path.String()); err != nil {
		t.Fatalf("nix-store -r: %v\n%s", err, out)
	}
	c.wantPath(t, big, bigNAR)
	c.wantPath(t, top, topNAR)
	for _, c := range cs {
		c.Close()
	}
	eventually(t, "file descriptors", func() int { return openFiles(t) }, files)
	eventually(t, "goroutines", runtime.NumGoroutine, goroutines)
	w.wantIdleSoon(t) // the few goroutines that may be left can be requests that have not ended yet
}
