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
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
)

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
			s.ServeHTTP(fw, newRequest(t.Context(), "GET", narPath(info)))
		}()
		if st := w.spool.Stats(); st.Entries != 1 || s.Stats().NarsServed != 0 {
			t.Errorf("a reply that broke off counts as served: %+v, %+v", st, s.Stats())
		}
		w.wantIdle(t)
	}
}

// A deadlineWriter notes how long it may take.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	deadlines *[]time.Duration
}

func (w deadlineWriter) SetWriteDeadline(t time.Time) error {
	*w.deadlines = append(*w.deadlines, time.Until(t))
	return nil
}

// TestNobodyHoldsANARForEver is about a client that stops reading: each reply has a deadline, and each chunk of a NAR.
func TestNobodyHoldsANARForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 33<<20)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
		for path, want := range map[string]int{"/x": 1, narinfoPath(info): 1, narPath(info): 4} {
			var got []time.Duration
			s.ServeHTTP(deadlineWriter{httptest.NewRecorder(), &got}, newRequest(t.Context(), "GET", path))
			if len(got) != want || slices.Min(got) != 10*time.Minute || slices.Max(got) != 10*time.Minute {
				t.Errorf("%s: deadlines in %v, want %d of 10 minutes", path, got, want)
			}
		}
	})
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
	info, nar := w.add(t, "hello", 33<<20)
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
	for _, path := range []string{"/nix-cache-info", narinfoPath(info), narinfoPath(absent), narPath(info), narPath(absent),
		narPath(info)} {
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
