package narserve_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
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

// A fetchLog has the names of the NARs that were fetched because they were not in the spool, in order.
type fetchLog struct {
	mu    sync.Mutex
	names []string
}

// of returns the world's store as a source that keeps the log. It calls before ahead of each fetch.
func (l *fetchLog) of(w *world, before func(ctx context.Context, name string)) *probe {
	src := w.local()
	return &probe{inner: src, fetch: func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
		if sp, ok := w.spool.Get(m.NarHash()); ok {
			return sp, nil
		}
		l.mu.Lock()
		l.names = append(l.names, m.Path().Name())
		l.mu.Unlock()
		if before != nil {
			before(ctx, m.Path().Name())
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return src.Fetch(ctx, m)
	}}
}

func (l *fetchLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := l.names
	l.names = nil
	return names
}

// closure puts a chain and its leaves into the store: top refers to the rest, and d to c, although c's name is later.
func (w *world) closure(t *testing.T) []store.Info {
	a, _ := w.add(t, "a-leaf", 1000)
	z, _ := w.add(t, "z-leaf", 1000)
	d, _ := w.add(t, "d-user", 1000, z.Path)
	top, _ := w.add(t, "b-top", 1000, a.Path, z.Path, d.Path)
	return []store.Info{a, z, d, top}
}

func TestFetchesAheadInNixsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		infos := w.closure(t)
		var log fetchLog
		s := narserve.New(narserve.Config{Sources: []narserve.Source{log.of(w, nil)}, Keys: w.keys, Ahead: 1 << 20})
		for _, i := range []int{3, 0, 1, 2} { // as Nix asks: the top first
			wantStatus(t, "narinfo", do(s, http.MethodGet, narinfoPath(infos[i])), http.StatusOK)
		}
		synctest.Wait()
		if got := log.take(); len(got) != 0 {
			t.Errorf("a dry run fetched %q", got)
		}
		wantStatus(t, "nar", do(s, http.MethodGet, narPath(infos[0])), http.StatusOK)
		synctest.Wait()
		got := log.take()
		slices.Sort(got) // those fetched at once may overtake each other
		if want := []string{"a-leaf", "b-top", "d-user", "z-leaf"}; !slices.Equal(got, want) {
			t.Errorf("fetched %q, want %q", got, want)
		}
		for _, i := range []int{1, 2, 3} {
			wantStatus(t, "nar", do(s, http.MethodGet, narPath(infos[i])), http.StatusOK)
		}
		st := s.Stats()
		if sum := infos[1].NarSize + infos[2].NarSize + infos[3].NarSize; st.AheadFetched != sum || st.AheadUsed != sum {
			t.Errorf("%d bytes fetched ahead and %d used, want %d", st.AheadFetched, st.AheadUsed, sum)
		}
		time.Sleep(time.Minute) // the session ends, or synctest complains
	})
}

func TestAheadKeepsToItsBudgetAndTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		infos := w.closure(t)
		var log fetchLog
		s := narserve.New(narserve.Config{Sources: []narserve.Source{log.of(w, nil)}, Keys: w.keys, Ahead: 1}) // one at a time
		for _, info := range infos {
			do(s, http.MethodGet, narinfoPath(info))
		}
		for i, want := range [][]string{{"a-leaf", "z-leaf"}, {"d-user"}, {"b-top"}, nil} {
			do(s, http.MethodGet, narPath(infos[i]))
			synctest.Wait()
			got := log.take()
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("after request %d: fetched %q, want %q", i, got, want)
			}
		}
		time.Sleep(time.Minute)
	})
}

func TestAheadStopsWhenNixGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		infos := w.closure(t)
		var log fetchLog
		var cancelled atomic.Int32
		src := log.of(w, func(ctx context.Context, name string) {
			if name != "a-leaf" { // all but what Nix asks for hang
				<-ctx.Done()
				cancelled.Add(1)
			}
		})
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Ahead: 1 << 20})
		for _, info := range infos {
			do(s, http.MethodGet, narinfoPath(info))
		}
		do(s, http.MethodGet, narPath(infos[0]))
		synctest.Wait()
		if n := cancelled.Load(); n != 0 {
			t.Fatalf("%d fetches cancelled while Nix is there", n)
		}
		time.Sleep(time.Minute) // Nix says no more
		synctest.Wait()
		if cancelled.Load() == 0 {
			t.Error("nothing was cancelled when Nix had gone")
		}
		if st := s.Stats(); st.AheadFetched != 0 || st.AheadUsed != 0 {
			t.Errorf("stats = %+v, want nothing fetched ahead", st)
		}
	})
}

func TestMalformedNARIsFetchedAheadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leaf, _ := w.add(t, "a-leaf", 1000)
		evil := w.addNAR(t, "b-evil", evilNAR(), leaf.Path)
		top, _ := w.add(t, "c-top", 1000, evil.Path)
		var log fetchLog
		s := narserve.New(narserve.Config{Sources: []narserve.Source{log.of(w, nil)}, Keys: w.keys, Ahead: 1 << 20})
		for i := range 3 { // Nix comes back, and again
			for _, info := range []store.Info{top, leaf} {
				wantStatus(t, "narinfo", do(s, http.MethodGet, narinfoPath(info)), http.StatusOK)
			}
			status := map[bool]int{true: http.StatusOK, false: http.StatusNotFound}[i == 0] // then the NAR is known
			wantStatus(t, "narinfo of evil", do(s, http.MethodGet, narinfoPath(evil)), status)
			wantStatus(t, "leaf", do(s, http.MethodGet, narPath(leaf)), http.StatusOK)
			synctest.Wait()
			wantStatus(t, "evil", do(s, http.MethodGet, narPath(evil)), http.StatusNotFound)
			time.Sleep(time.Minute)
		}
		n := 0
		for _, name := range log.take() {
			if name == "b-evil" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("fetched %d times, want 1", n)
		}
	})
}

func TestAheadIsOffWithoutABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		infos := w.closure(t)
		var log fetchLog
		s := narserve.New(narserve.Config{Sources: []narserve.Source{log.of(w, nil)}, Keys: w.keys})
		for _, info := range infos {
			do(s, http.MethodGet, narinfoPath(info))
		}
		do(s, http.MethodGet, narPath(infos[0]))
		synctest.Wait()
		if got := log.take(); len(got) != 1 {
			t.Errorf("fetched %q, want only what was asked for", got)
		}
	})
}

// Machines that want the same closure must not all fetch it in the same order.
func TestAheadGoesAstray(t *testing.T) {
	first := map[string]bool{}
	for range 8 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			var infos []store.Info
			for i := range 100 {
				info, _ := w.add(t, fmt.Sprintf("leaf%02d", i), 10)
				infos = append(infos, info)
			}
			var log fetchLog
			src := log.of(w, func(ctx context.Context, name string) {
				if name != "leaf00" { // those that come first hold up the rest
					<-ctx.Done()
				}
			})
			s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Ahead: 1 << 20})
			for _, info := range infos {
				do(s, http.MethodGet, narinfoPath(info))
			}
			do(s, http.MethodGet, narPath(infos[0]))
			synctest.Wait()
			got := log.take()
			if !slices.Contains(got, "leaf01") {
				t.Errorf("fetched %q, and not leaf01, which Nix wants next", got)
			}
			for _, name := range got {
				first[name] = true
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		})
	}
	if len(first) < 8 {
		t.Errorf("8 machines fetched first only %d different paths", len(first))
	}
}

func TestDryRunsOfLongAgoDoNotHinderFetchingAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		infos := w.closure(t)
		var log fetchLog
		s := narserve.New(narserve.Config{Sources: []narserve.Source{log.of(w, nil)}, Keys: w.keys, Ahead: 1 << 20})
		for i := range 4096 { // as many as are kept
			info, _ := w.add(t, fmt.Sprintf("dry-%d", i), 1)
			do(s, http.MethodGet, narinfoPath(info))
		}
		time.Sleep(10 * time.Minute)
		for _, info := range infos {
			do(s, http.MethodGet, narinfoPath(info))
		}
		do(s, http.MethodGet, narPath(infos[0]))
		synctest.Wait()
		if got := log.take(); len(got) != len(infos) {
			t.Errorf("fetched %q, want all %d", got, len(infos))
		}
		time.Sleep(time.Minute)
	})
}

// A large NAR is not passed over for ever because small ones fill the budget.
func TestAheadKeepsRoomForALargeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var infos []store.Info
		for i := range 40 {
			info, _ := w.add(t, fmt.Sprintf("leaf%02d", i), 1000)
			infos = append(infos, info)
		}
		large, _ := w.add(t, "leaf10-large", 9000)
		var log fetchLog
		s := narserve.New(narserve.Config{Sources: []narserve.Source{log.of(w, nil)}, Keys: w.keys, Ahead: 12_000})
		do(s, http.MethodGet, narinfoPath(large))
		for _, info := range infos {
			do(s, http.MethodGet, narinfoPath(info))
		}
		for _, info := range infos[:11] {
			do(s, http.MethodGet, narPath(info))
			synctest.Wait()
		}
		if got := log.take(); !slices.Contains(got, "leaf10-large") {
			t.Errorf("fetched %q, and not leaf10-large, which Nix wants next", got)
		}
		time.Sleep(time.Minute)
	})
}

// A NAR that Nix waits for shares the link with at most one that it does not wait for.
func TestWhatNixWaitsForComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var infos []store.Info
		for i := range 20 {
			info, _ := w.add(t, fmt.Sprintf("leaf%02d", i), 1000)
			infos = append(infos, info)
		}
		var log fetchLog
		arrive := make(chan struct{})
		src := log.of(w, func(ctx context.Context, name string) {
			select {
			case <-arrive:
			case <-ctx.Done():
			}
		})
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Ahead: 1 << 20})
		for _, info := range infos {
			do(s, http.MethodGet, narinfoPath(info))
		}
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			do(s, http.MethodGet, narPath(infos[0]))
		}()
		synctest.Wait()
		if got := log.take(); len(got) != 2 || !slices.Contains(got, "leaf00") {
			t.Errorf("while Nix waits for leaf00: fetched %q, want it and one more", got)
		}
		close(arrive)
		<-asked
		synctest.Wait()
		if got := log.take(); len(got) != 18 {
			t.Errorf("when Nix had it: fetched %q, want all that were left", got)
		}
		time.Sleep(time.Minute)
	})
}
