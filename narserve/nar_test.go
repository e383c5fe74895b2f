package narserve_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// wantIdle fails if a NAR has an open handle: then the spool could not reuse its space.
func (w *world) wantIdle(t testing.TB) {
	t.Helper()
	d, err := w.spool.Create(store.Hash{1}, w.spool.Stats().MaxBytes)
	if err != nil {
		t.Errorf("a handle is still open: %v", err)
		return
	}
	d.Discard()
}

// wantIdleSoon is [world.wantIdle] for a server with clients that hang up at a time of their own: it waits for the last
// request to end. A handle that is never closed still fails the test.
func (w *world) wantIdleSoon(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(storetest.AtMost(20 * time.Second)); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if d, err := w.spool.Create(store.Hash{1}, w.spool.Stats().MaxBytes); err == nil {
			d.Discard()
			return
		}
	}
	w.wantIdle(t)
}

func TestNAR(t *testing.T) {
	w := newWorld(t)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	for _, size := range []int{0, 1, 4096, 256 << 10, 3 << 20, 16<<20 + 1} {
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
		{"bytes=9223372036854775808-", 200, 0, size}, {"bytes=99999999999999999999-", 200, 0, size},
		{"bytes=-99999999999999999999", 200, 0, size},
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
	wantStatus(t, "NAR again", do(after, "GET", narPath(info)), 200)
	if n := src.lookups.Load(); n != 2 {
		t.Errorf("%d lookups with a restart between, want 2", n)
	}
}

// TestEarlyNARHasPatience is a restart in the middle of a build: Nix knows the URL, and we know no neighbour yet.
func TestEarlyNARHasPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 10)
		settled := make(chan struct{})
		src := &probe{inner: w.local(), lookup: func(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
			select {
			case <-settled:
				return w.local().Lookup(ctx, hp)
			default:
				return trust.Mapping{}, store.ErrNotFound
			}
		}}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Settled: settled})
		time.AfterFunc(time.Second, func() { close(settled) })
		wantStatus(t, "NAR", do(s, "GET", narPath(info)), 200)
	})
}

// After a restart in the middle of a build, the first neighbour that is found again sends wrong blocks.
func TestEarlyNARIsTriedAgainOnceDiscoveryHasSettled(t *testing.T) {
	for _, tt := range []struct {
		name            string
		asked           time.Duration // since the start
		err             error         // of the first fetch
		status, fetches int
	}{
		{"early", 0, store.ErrCorrupt, 200, 2},
		{"early, without space", 0, store.ErrNoSpace, 404, 1},
		{"when discovery has settled", 1500 * time.Millisecond, store.ErrCorrupt, 404, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			info, _ := w.add(t, "hello", 10)
			settled := make(chan struct{})
			src, began := &probe{inner: w.local()}, time.Now()
			src.fetch = func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
				if src.fetched.Load() == 1 || time.Since(began) < time.Second {
					return nil, tt.err
				}
				return w.local().Fetch(ctx, m)
			}
			s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Settled: settled})
			defer time.AfterFunc(time.Second, func() { close(settled) }).Stop()
			time.Sleep(tt.asked) // the bubble's clock
			wantStatus(t, tt.name, do(s, "GET", narPath(info)), tt.status)
			if n := int(src.fetched.Load()); n != tt.fetches {
				t.Errorf("%s: fetched %d times, want %d", tt.name, n, tt.fetches)
			}
		})
	}
}

func TestMemoryOfMappingsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		src := &probe{inner: w.local()}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
		lookups := func(info store.Info) int32 {
			before := src.lookups.Load()
			wantStatus(t, "HEAD of a NAR", do(s, "HEAD", narPath(info)), 200)
			return src.lookups.Load() - before
		}
		var refs []store.Path
		for i := range 400 {
			info, _ := w.info(t, fmt.Sprintf("a-reference-%d", i), 1)
			refs = append(refs, info.Path)
		}
		long, _ := w.add(t, "long", 10, refs...)
		first, _ := w.add(t, "first", 10)
		wantStatus(t, "narinfo", do(s, "GET", narinfoPath(long)), 200)
		wantStatus(t, "narinfo", do(s, "GET", narinfoPath(first)), 200)
		if n := lookups(long); n != 1 {
			t.Errorf("a mapping of 16 KiB: %d lookups, want 1: it should not be remembered", n)
		}
		if n := lookups(first); n != 0 {
			t.Errorf("a small mapping: %d lookups, want 0", n)
		}
		// Many more, which need no signature and so no time.
		src.lookup = func(_ context.Context, hp store.HashPart) (trust.Mapping, error) {
			info, err := w.mem.Info(t.Context(), hp)
			if err != nil {
				return trust.Mapping{}, err
			}
			return w.keys.Check(info)
		}
		for i := range 4096 {
			nar := fileNAR(fmt.Append(nil, "the source ", i))
			info := trusttest.SourceClaim(t, fmt.Sprintf("many-%d", i), nar)
			w.mem.Add(info, nar)
			wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 200)
		}
		if n := lookups(first); n != 1 {
			t.Errorf("after 4096 others: %d lookups, want 1", n)
		}
	})
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
	wantStatus(t, "an unsigned NarHash", do(s, "GET", narPath(info2)), 404)
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
