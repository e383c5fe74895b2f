package narserve_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"narbor/narserve"
	"narbor/store"
)

// wantIdle fails if somebody still holds a NAR: then its space could not be had.
func (w *world) wantIdle(t testing.TB) {
	t.Helper()
	d, err := w.spool.Create(store.Hash{1}, w.spool.Stats().MaxBytes)
	if err != nil {
		t.Errorf("a handle is still open: %v", err)
		return
	}
	d.Discard()
}

func TestNAR(t *testing.T) {
	w := newWorld(t)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	for _, size := range []int{0, 1, 4096, 256 << 10, 3 << 20, 40 << 20} {
		info, nar := w.add(t, fmt.Sprintf("f%d", size), size)
		resp := do(s, "GET", narPath(info))
		wantStatus(t, "GET", resp, 200)
		for header, want := range map[string]string{"Content-Type": "application/x-nix-nar", "Accept-Ranges": "bytes",
			"Content-Length": strconv.Itoa(len(nar)), "Content-Encoding": "", "Content-Range": ""} {
			if got := resp.Header.Get(header); got != want {
				t.Errorf("%d bytes: %s = %q, want %q", size, header, got, want)
			}
		}
		if !bytes.Equal(body(t, resp), nar) {
			t.Errorf("a file of %d bytes arrives changed", size)
		}
	}
	w.wantIdle(t)
}

func TestHeadFetchesNothing(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	src := &probe{inner: w.local()}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
	resp := do(s, "HEAD", narPath(info), "Range", "bytes=5-")
	wantStatus(t, "HEAD", resp, 200)
	if got := resp.Header.Get("Content-Length"); got != strconv.Itoa(len(nar)) || src.fetched.Load() != 0 {
		t.Errorf("HEAD: Content-Length %s and %d fetches, want %d and 0", got, src.fetched.Load(), len(nar))
	}
	if st := s.Stats(); st.NarsServed != 0 || st.NarBytesServed != 0 {
		t.Errorf("Stats = %+v after HEAD", st)
	}
}

func TestRanges(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	size := len(nar)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	for _, tt := range []struct {
		header       string
		status       int
		start, after int
	}{
		{"bytes=0-", 206, 0, size}, {"bytes=1-", 206, 1, size}, {fmt.Sprintf("bytes=%d-", size-1), 206, size - 1, size},
		{"bytes=0-0", 206, 0, 1}, {"bytes=10-19", 206, 10, 20}, {"bytes=10-999999", 206, 10, size}, {"bytes=-7", 206, size - 7, size},
		{"bytes=-999999", 206, 0, size}, {"bytes=0-9223372036854775807", 206, 0, size},
		{fmt.Sprintf("bytes=%d-", size), 200, 0, size}, {"bytes=999999-", 200, 0, size}, {"bytes=-0", 200, 0, size},
		{"bytes=9-5", 200, 0, size}, {"bytes=-", 200, 0, size}, {"bytes=", 200, 0, size}, {"bytes", 200, 0, size}, {"", 200, 0, size},
		{"bytes=0-1,3-4", 200, 0, size}, {"bytes=0-1, 3-", 200, 0, size}, {"items=0-1", 200, 0, size}, {"Bytes=1-2", 200, 0, size},
		{"bytes=+1-2", 200, 0, size}, {"bytes=--1", 200, 0, size}, {"bytes=1--2", 200, 0, size}, {"bytes= 1-2", 200, 0, size},
		{"bytes=1-2x", 200, 0, size}, {"bytes=0x1-2", 200, 0, size}, {"bytes=1_0-20", 200, 0, size},
		{"bytes=9223372036854775808-", 200, 0, size}, {"bytes=99999999999999999999-", 200, 0, size}, {"bytes=-99999999999999999999", 200, 0, size},
	} {
		resp := do(s, "GET", narPath(info), "Range", tt.header)
		wantStatus(t, tt.header, resp, tt.status)
		if !bytes.Equal(body(t, resp), nar[tt.start:tt.after]) {
			t.Errorf("%s: other bytes than [%d:%d]", tt.header, tt.start, tt.after)
		}
		want := ""
		if tt.status == 206 {
			want = fmt.Sprintf("bytes %d-%d/%d", tt.start, tt.after-1, size)
		}
		if got := resp.Header.Get("Content-Range"); got != want {
			t.Errorf("%s: Content-Range = %q, want %q", tt.header, got, want)
		}
	}
	resp := do(s, "GET", narPath(info), "Range", "bytes=1-2", "Range", "bytes=3-4")
	wantStatus(t, "two Range headers", resp, 200)
	if len(body(t, resp)) != size {
		t.Error("two Range headers: not the whole")
	}
	w.wantIdle(t)
}

func TestConditionsAreIgnored(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	const future, past = "Fri, 01 Jan 2100 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"
	for _, h := range [][]string{{"If-None-Match", "*"}, {"If-Match", `"x"`}, {"If-Modified-Since", future}, {"If-Unmodified-Since", past},
		{"Expect", "x"}, {"Accept-Encoding", "br, zstd, gzip"}, {"Accept", "text/html"}} {
		for _, path := range []string{narPath(info), narinfoPath(info), "/nix-cache-info"} {
			wantStatus(t, path+" with "+h[0], do(s, "GET", path, h...), 200)
		}
	}
	resp := do(s, "GET", narPath(info), "Range", "bytes=10-", "If-Range", `"x"`)
	wantStatus(t, "If-Range", resp, 206)
	if !bytes.Equal(body(t, resp), nar[10:]) {
		t.Error("If-Range: other bytes")
	}
}

func TestURLOutlivesTheServer(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	src := &probe{inner: w.local()}
	before := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
	wantStatus(t, "narinfo", do(before, "GET", narinfoPath(info)), 200)
	wantStatus(t, "NAR", do(before, "GET", narPath(info)), 200)
	if n := src.lookups.Load(); n != 1 {
		t.Errorf("%d lookups for a narinfo and its NAR, want 1", n)
	}
	after := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
	resp := do(after, "GET", narPath(info))
	wantStatus(t, "NAR after a restart", resp, 200)
	if !bytes.Equal(body(t, resp), nar) {
		t.Error("other bytes after a restart")
	}
}

// TestEachNarHashIsFound has two sources that know a path by different builds, both signed.
func TestEachNarHashIsFound(t *testing.T) {
	w, w2 := newWorld(t), newWorld(t)
	w2.secret, w2.keys = w.secret, w.keys
	info, nar := w.add(t, "hello", 5000)
	info2, nar2 := info, fileNAR([]byte("built again"))
	info2.NarHash, info2.NarSize = sum(nar2), int64(len(nar2))
	w2.sign(&info2)
	w2.mem.Add(info2, nar2)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local(), w2.local()}, Keys: w.keys})
	wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 200)
	for _, tt := range []struct {
		info store.Info
		nar  []byte
	}{{info, nar}, {info2, nar2}} {
		resp := do(s, "GET", narPath(tt.info))
		wantStatus(t, narPath(tt.info), resp, 200)
		if !bytes.Equal(body(t, resp), tt.nar) {
			t.Errorf("%s: other bytes", narPath(tt.info))
		}
	}
	info2.NarHash[0] ^= 1
	wantStatus(t, "a NarHash that nobody signed", do(s, "GET", narPath(info2)), 404)
}

func TestRevokedKey(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 200)
	wantStatus(t, "a part, so that it stays in the spool", do(s, "GET", narPath(info), "Range", "bytes=0-9"), 206)
	if err := w.keys.Replace(nil); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, "narinfo after the key is gone", do(s, "GET", narinfoPath(info)), 404)
	wantStatus(t, "NAR after the key is gone", do(s, "GET", narPath(info)), 404)
}

func TestSpoolEntryGoesOnceNixHasIt(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	src := &probe{inner: w.local()}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
	last := len(nar) - 1
	for _, tt := range []struct {
		method, header string
		entries        int
	}{
		{"HEAD", "", 0}, {"GET", "bytes=0-10", 1}, {"HEAD", "", 1}, {"GET", fmt.Sprintf("bytes=0-%d", last-1), 1}, {"GET", "bytes=10-", 0},
		{"GET", "bytes=0-10", 1}, {"GET", "", 0}, {"GET", "bytes=0-10", 1}, {"GET", fmt.Sprintf("bytes=0-%d", last), 0},
	} {
		do(s, tt.method, narPath(info), "Range", tt.header)
		if st := w.spool.Stats(); st.Entries != tt.entries {
			t.Errorf("after %s %s the spool has %d entries, want %d", tt.method, tt.header, st.Entries, tt.entries)
		}
	}
	if st := s.Stats(); st.NarsServed != 3 {
		t.Errorf("Stats = %+v, want 3 NARs served to the end", st)
	}
	w.wantIdle(t)
}

// handled tells when the server is done with each request.
func handled(h http.Handler) (http.Handler, chan struct{}) {
	done := make(chan struct{}, 100)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { done <- struct{}{} }()
		h.ServeHTTP(w, r)
	}), done
}

func TestResume(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "big", 24<<20) // more than the kernel buffers on loopback
	src := &probe{inner: w.local()}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
	h, done := handled(s)
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + narPath(info))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<20)
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() // hangs up
	<-done
	if st := w.spool.Stats(); st.Entries != 1 {
		t.Errorf("after hanging up in the middle the spool has %d entries, want 1", st.Entries)
	}
	req, err := http.NewRequest("GET", srv.URL+narPath(info), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(got)))
	resp, err = srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, "the rest", resp, 206)
	got = append(got, body(t, resp)...)
	<-done
	if !bytes.Equal(got, nar) {
		t.Error("the resumed NAR differs")
	}
	if st := w.spool.Stats(); st.Entries != 0 {
		t.Errorf("after the rest the spool has %d entries, want 0", st.Entries)
	}
	if st := s.Stats(); st.NarsServed != 1 || st.NarBytesServed < int64(len(nar)) {
		t.Errorf("Stats = %+v, want 1 NAR and at least %d bytes", st, len(nar))
	}
}

// A failing writer breaks off after some bytes, at a size so small that nothing but Flush would notice for real.
type failingWriter struct {
	*httptest.ResponseRecorder
	flushErr error
	panics   bool
}

func (w failingWriter) Write(p []byte) (int, error) {
	if w.panics {
		panic("at the disco")
	}
	return w.ResponseRecorder.Write(p)
}

func (w failingWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }
func (w failingWriter) FlushError() error                 { return w.flushErr }

func TestBrokenReplyIsBrokenOff(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	for _, fw := range []failingWriter{{flushErr: errors.New("connection reset")}, {panics: true}} {
		fw.ResponseRecorder = httptest.NewRecorder()
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("recovered %v, want ErrAbortHandler", p)
				}
			}()
			r := httptest.NewRequest("GET", "http://127.0.0.1"+narPath(info), nil)
			s.ServeHTTP(fw, r)
		}()
		if st := w.spool.Stats(); st.Entries != 1 || s.Stats().NarsServed != 0 {
			t.Errorf("a reply that broke off counts as served: %+v, %+v", st, s.Stats())
		}
		w.wantIdle(t)
	}
}

// A spyConn sees whether net/http hands the kernel a file or copies by itself.
type spyListener struct {
	net.Listener
	files *atomic.Int32
}

func (l spyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return spyConn{c, l.files}, err
}

type spyConn struct {
	net.Conn
	files *atomic.Int32
}

func (c spyConn) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			c.files.Add(1)
		}
	}
	return io.Copy(c.Conn, r)
}

func TestKernelCopies(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 40<<20)
	srv := httptest.NewUnstartedServer(narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys}))
	var files atomic.Int32
	srv.Listener = spyListener{srv.Listener, &files}
	srv.Start()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + narPath(info))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(body(t, resp), nar) {
		t.Error("other bytes")
	}
	if files.Load() != 3 {
		t.Errorf("the connection was handed the file %d times, want 3 chunks of at most 16 MiB", files.Load())
	}
}

func TestKeepAlive(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	absent, _ := w.info(t, "absent", 1)
	addr := startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys}))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var requests strings.Builder
	for _, path := range []string{"/nix-cache-info", narinfoPath(info), narinfoPath(absent), narPath(info), narPath(absent), narPath(info)} {
		fmt.Fprintf(&requests, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, addr)
	}
	if _, err := io.WriteString(c, requests.String()); err != nil {
		t.Fatal(err)
	}
	br := newReader(c)
	for i, want := range []int{200, 200, 404, 200, 404, 200} {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		wantStatus(t, fmt.Sprintf("answer %d", i), resp, want)
		if b := body(t, resp); (i == 3 || i == 5) && !bytes.Equal(b, nar) {
			t.Errorf("answer %d: other bytes", i)
		}
	}
}
