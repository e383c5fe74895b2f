package narserve_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust"
)

func TestBrokenSourcesMakeNotFound(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 5000)
	other, otherNAR := w.info(t, "other", 5000)
	good := w.local()
	for name, fetch := range map[string]func(context.Context, trust.Mapping) (*spool.NAR, error){
		"error":   func(context.Context, trust.Mapping) (*spool.NAR, error) { return nil, errBroken },
		"panic":   func(context.Context, trust.Mapping) (*spool.NAR, error) { panic("at the disco") },
		"nothing": func(context.Context, trust.Mapping) (*spool.NAR, error) { return nil, nil },
		"another nar": func(context.Context, trust.Mapping) (*spool.NAR, error) {
			d, err := w.spool.Create(other.NarHash, other.NarSize)
			if err != nil {
				return nil, err
			}
			d.WriteAt(otherNAR, 0)
			return d.Commit(nil)
		},
	} {
		core, logs := observer.New(zap.InfoLevel)
		broken := &probe{inner: good, fetch: fetch}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{broken}, Keys: w.keys, Log: zap.New(core)})
		wantStatus(t, name, do(s, "GET", narPath(info)), 404)
		if logs.Len() != 1 {
			t.Errorf("%s: logged %v, want one line", name, logs.All())
		}
		w.wantIdle(t)
		s = narserve.New(narserve.Config{Sources: []narserve.Source{broken, good}, Keys: w.keys})
		resp := do(s, "GET", narPath(info))
		wantStatus(t, name+", then the next source", resp, 200)
		if !bytes.Equal(body(t, resp), nar) {
			t.Errorf("%s: the next source's bytes differ", name)
		}
		w.wantIdle(t)
	}
}

// addNAR puts a signed path into the store that has this NAR, whatever it is.
func (w *world) addNAR(t testing.TB, name string, nar []byte, refs ...store.Path) store.Info {
	t.Helper()
	info, _ := w.info(t, name, 0, refs...)
	info.NarHash, info.NarSize, info.CA = sum(nar), int64(len(nar)), ""
	w.sign(&info)
	w.mem.Add(info, nar)
	return info
}

// evilNAR is a file called ".." in a directory.
func evilNAR() []byte {
	return []byte(storetest.Words("nix-archive-1", "(", "type", "directory", "entry", "(", "name", "..", "node",
		"(", "type", "regular", "contents", "", ")", ")", ")"))
}

func TestMalformedNARIsNotFoundAndFetchedOnce(t *testing.T) {
	w := newWorld(t)
	evil := w.addNAR(t, "evil", evilNAR())
	core, logs := observer.New(zap.InfoLevel)
	first, second := &probe{inner: w.local()}, &probe{inner: w.local()}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{first, second}, Keys: w.keys, Log: zap.New(core)})
	wantStatus(t, "narinfo", do(s, "GET", narinfoPath(evil)), 200)
	for range 3 {
		wantStatus(t, "NAR", do(s, "GET", narPath(evil)), 404)
		wantStatus(t, "range of the NAR", do(s, "GET", narPath(evil), "Range", "bytes=5-"), 404)
		wantStatus(t, "HEAD of the NAR", do(s, "HEAD", narPath(evil)), 404)
		wantStatus(t, "narinfo, once the NAR is known", do(s, "GET", narinfoPath(evil)), 404)
	}
	if a, b := first.fetched.Load(), second.fetched.Load(); a != 1 || b != 0 {
		t.Errorf("fetched %d times from the first source and %d from the second, want 1 and 0", a, b)
	}
	if all := logs.All(); len(all) != 1 || all[0].Level != zap.WarnLevel || all[0].ContextMap()["path"] != evil.Path.String() ||
		!strings.Contains(fmt.Sprint(all[0].ContextMap()["err"], all[0].ContextMap()["error"]), `the name ".." is no file's`) {
		t.Errorf("logged %v, want one warning with the path and what is wrong", all)
	}
	w.wantIdle(t)
}

func TestMalformedNARsAreRemembered(t *testing.T) {
	w := newWorld(t)
	src := &probe{inner: w.local()}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
	var infos []store.Info
	for i := range 1001 { // one more than are
		infos = append(infos, w.addNAR(t, fmt.Sprintf("evil-%d", i), evilNAR()))
	}
	for _, info := range infos[:1000] {
		do(s, "GET", narPath(info))
		do(s, "GET", narPath(info))
	}
	if n := src.fetched.Load(); n != 1000 {
		t.Errorf("1000 malformed NARs, asked for twice, were fetched %d times", n)
	}
	do(s, "GET", narPath(infos[1000]))
	do(s, "GET", narPath(infos[0]))
	if n := src.fetched.Load(); n != 1002 {
		t.Errorf("%d fetches after another, and the first again; want 1002: memory is bounded", n)
	}
}

func TestStuckFetch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		deaf   bool
		second bool
		status int
		after  time.Duration
	}{
		{"alone", false, false, 404, 240 * time.Second},
		{"alone and deaf", true, false, 404, 240 * time.Second},
		{"leaves half of the time", false, true, 200, 120 * time.Second},
		{"deaf before another", true, true, 404, 240 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			info, _ := w.add(t, "hello", 10)
			release := make(chan struct{})
			stuck := &probe{inner: w.local(), fetch: func(ctx context.Context, _ trust.Mapping) (*spool.NAR, error) {
				if tt.deaf {
					<-release
					return nil, store.ErrNotFound
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}}
			sources := []narserve.Source{stuck}
			if tt.second {
				sources = append(sources, w.local())
			}
			s := narserve.New(narserve.Config{Sources: sources, Keys: w.keys})
			began := time.Now()
			wantStatus(t, tt.name, do(s, "GET", narPath(info)), tt.status)
			if dur := time.Since(began); dur != tt.after {
				t.Errorf("%s: answered after %v, want %v", tt.name, dur, tt.after)
			}
			close(release)
			synctest.Wait()
			w.wantIdle(t)
		})
	}
}

// gated is a source with fetches that wait for the gate; cancelled counts those that end by their context first.
func gated(src narserve.Source, gate chan struct{}, cancelled *atomic.Int32) *probe {
	return &probe{inner: src, fetch: func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
		select {
		case <-gate:
			return src.Fetch(ctx, m)
		case <-ctx.Done():
			cancelled.Add(1)
			return nil, ctx.Err()
		}
	}}
}

func TestConcurrentRequestsShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar := w.add(t, "hello", 1<<20)
		gate := make(chan struct{})
		var cancelled, whole atomic.Int32
		src := gated(w.local(), gate, &cancelled)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if bytes.Equal(body(t, do(s, "GET", narPath(info))), nar) {
					whole.Add(1)
				}
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if src.fetched.Load() != 1 || whole.Load() != 20 {
			t.Errorf("20 requests made %d fetches and %d whole bodies, want 1 and 20", src.fetched.Load(), whole.Load())
		}
		if st := w.spool.Stats(); st.Entries != 0 {
			t.Errorf("Stats = %+v: Nix has it, the spool has it still", st)
		}
		if st := s.Stats(); st.NarsServed != 20 || st.NarBytesServed != 20*int64(len(nar)) {
			t.Errorf("Stats = %+v", st)
		}
	})
}

func TestFetchStopsAWhileAfterTheLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar := w.add(t, "hello", 5000)
		core, logs := observer.New(zap.InfoLevel)
		gate := make(chan struct{})
		var cancelled atomic.Int32
		src := gated(w.local(), gate, &cancelled)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Log: zap.New(core)})
		var hangUp []context.CancelFunc
		var wg sync.WaitGroup
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			hangUp = append(hangUp, cancel)
			wg.Go(func() { doContext(ctx, s, "GET", narPath(info)) })
		}
		synctest.Wait()
		hangUp[0]()
		hangUp[1]()
		synctest.Wait()
		if cancelled.Load() != 0 {
			t.Error("the fetch was cancelled while one still waits")
		}
		hangUp[2]()
		wg.Wait()
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if cancelled.Load() != 0 {
			t.Error("the fetch was cancelled 29 s after its last request")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if cancelled.Load() != 1 {
			t.Error("the fetch goes on 30 s after its last request")
		}
		close(gate)
		if got := body(t, do(s, "GET", narPath(info))); !bytes.Equal(got, nar) || src.fetched.Load() != 2 {
			t.Errorf("a new request got %d bytes by fetch %d, want %d by fetch 2", len(got), src.fetched.Load(), len(nar))
		}
		if all := logs.All(); len(all) != 1 || all[0].Message != "substituted" || all[0].ContextMap()["path"] != "hello" ||
			all[0].ContextMap()["size"] != info.NarSize || all[0].ContextMap()["from"] != "neighbours" {
			t.Errorf("logged %v, want the substitution and nothing else: a client that hangs up is not logged", all)
		}
	})
}

// TestNixHangsUpAndComesBack is Nix with a stalled-download-timeout of 5 s, and a NAR that takes 17.
func TestNixHangsUpAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar := w.add(t, "hello", 5000)
		src := &probe{inner: w.local(), fetch: func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
			select {
			case <-time.After(17 * time.Second):
				return w.local().Fetch(ctx, m)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			doContext(ctx, s, "GET", narPath(info))
			cancel()
			time.Sleep(500 * time.Millisecond)
		}
		if got := body(t, do(s, "GET", narPath(info))); !bytes.Equal(got, nar) || src.fetched.Load() != 1 {
			t.Errorf("the fourth request got %d bytes after %d fetches, want %d after 1", len(got), src.fetched.Load(), len(nar))
		}
		w.wantIdle(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		doContext(ctx, s, "GET", narPath(info))
		cancel()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if !w.spool.Has(info.NarHash) {
			t.Error("20 s later the NAR is not in the spool, though its fetch took 17 s")
		}
		w.wantIdle(t)
	})
}

func TestFetchesWithoutRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var cancelled atomic.Int32
		gate := make(chan struct{})
		s := narserve.New(narserve.Config{Sources: []narserve.Source{gated(w.local(), gate, &cancelled)}, Keys: w.keys})
		ctx, hangUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 20 {
			info, _ := w.add(t, fmt.Sprintf("hello-%d", i), 5000)
			wg.Go(func() { doContext(ctx, s, "GET", narPath(info)) })
		}
		synctest.Wait()
		hangUp()
		wg.Wait()
		synctest.Wait()
		if n := cancelled.Load(); n != 4 {
			t.Errorf("of 20 fetches without a request %d were cancelled, want all but 16", n)
		}
		close(gate)
		synctest.Wait()
		w.wantIdle(t)
	})
}

// TestLateFetchIsClosed has a fetch end well after its only waiter went: its handle must not stay open, and the
// fetch that begins then must not notice.
func TestLateFetchIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 5000)
		gates := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		src := &probe{inner: w.local()}
		src.fetch = func(_ context.Context, m trust.Mapping) (*spool.NAR, error) {
			<-gates[src.fetched.Load()-1]
			return w.local().Fetch(context.Background(), m)
		}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		doContext(ctx, s, "GET", narPath(info))
		time.Sleep(time.Minute) // until it is cancelled
		part := func() { wantStatus(t, "a newcomer", do(s, "GET", narPath(info), "Range", "bytes=0-9"), 206) }
		go part()
		synctest.Wait()
		if n := src.fetched.Load(); n != 1 {
			t.Errorf("%d fetches, want 1: the next one begins when the one that was cancelled has ended", n)
		}
		close(gates[0])
		synctest.Wait()
		if n := src.fetched.Load(); n != 2 {
			t.Errorf("%d fetches, want 2: a newcomer must not join one that is being cancelled", n)
		}
		if st := w.spool.Stats(); st.Entries != 1 {
			t.Errorf("Stats = %+v, want the late NAR", st)
		}
		w.wantIdle(t)
		go part()
		synctest.Wait()
		if n := src.fetched.Load(); n != 2 {
			t.Errorf("%d fetches, want 2: the end of the first made the second one invisible", n)
		}
		close(gates[1])
		close(gates[2])
		synctest.Wait()
		w.wantIdle(t)
	})
}
