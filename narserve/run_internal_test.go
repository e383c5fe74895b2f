package narserve

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// stubStore is this machine's own store.
type stubStore struct {
	store.Source
	info func(store.HashPart) (store.Info, error)
}

func (s stubStore) Info(_ context.Context, hp store.HashPart) (store.Info, error) { return s.info(hp) }

func TestMissedPathBuiltHereIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards asked: that time has passed orders nothing
		asked := 0
		unsigned := trusttest.TextClaim(t, "built", "x")
		own := stubStore{info: func(store.HashPart) (store.Info, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return unsigned, nil
		}}
		s := New(Config{Sources: []Source{local{src: own, keys: new(trust.Keys)}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		s.accounts.NotFound(unsigned.Path.HashPart(), store.ErrNotFound)
		time.Sleep(3 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if sum := s.accounts.Account().Sum(0); sum.ByNix != 0 || asked == 0 {
			t.Errorf("a path that was built here counts: %+v; the store was asked %d times", sum, asked)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}

// endless is a source of which fetches end with their contexts.
type endless struct {
	m       trust.Mapping
	running atomic.Int64
}

func (e *endless) Lookup(context.Context, store.HashPart) (trust.Mapping, error) { return e.m, nil }

func (e *endless) Fetch(ctx context.Context, _ trust.Mapping) (*spool.NAR, error) {
	e.running.Add(1)
	defer e.running.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestNoFetchOutlastsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &endless{m: trusttest.TextMapping(t, "asked", "x")}
		s := New(Config{Sources: []Source{src}, Ahead: 1 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		s.ahead.expect(trusttest.TextMapping(t, "ahead", "x"))
		s.ahead.begin(src.m.Path().HashPart())
		s.ahead.waited()
		request, hangUp := context.WithCancel(t.Context())
		answered := make(chan error)
		go func() {
			_, err := s.fetches.do(request, src.m)
			answered <- err
		}()
		synctest.Wait()
		hangUp()
		<-answered
		if n := src.running.Load(); n != 2 {
			t.Fatalf("%d fetches run, want one that lingers and one ahead", n)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
		if n := src.running.Load(); n != 0 {
			t.Errorf("%d fetches run after Run has returned, want 0", n)
		}
		if _, err := s.fetches.do(t.Context(), src.m); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a fetch after Run has returned: %v, want ErrNotFound", err)
		}
	})
}

// The accounts are saved last: the file says how the fetch ended.
func TestFetchEndedByTheStopIsSavedAsSuch(t *testing.T) {
	file := filepath.Join(t.TempDir(), "account.json")
	synctest.Test(t, func(t *testing.T) {
		accounts, err := stats.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		src := &endless{m: trusttest.TextMapping(t, "asked", "x")}
		s := New(Config{Sources: []Source{src}, Accounts: accounts, Hosts: []string{"nix"}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		request := httptest.NewRequest(http.MethodGet, "/nar/"+narName(src.m.Path().HashPart(), src.m.NarHash()), nil)
		request.Host = "nix"
		go s.ServeHTTP(httptest.NewRecorder(), request)
		synctest.Wait()
		cancel()
		<-ended
		saved, err := stats.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := saved.Account().Requests; len(got) != 1 || got[0].Reason != "narbor was stopping" {
			t.Errorf("the file has the requests %+v, want one that the stop has ended", got)
		}
	})
}

func TestReplyUnderWayIsCountedBeforeTheLastSave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "account.json")
	synctest.Test(t, func(t *testing.T) {
		accounts, err := stats.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Accounts: accounts})
		if err := s.fetches.enter(); err != nil { // as a request for a NAR does
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		cancel()
		synctest.Wait()
		accounts.Served(trusttest.TextMapping(t, "asked", "x"), 113, time.Second, true)
		s.fetches.life.Leave()
		<-ended
		saved, err := stats.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if sum := saved.Account().Sum(0); sum.NARs != 1 {
			t.Errorf("the file counts %d NARs, want the one that was sent last", sum.NARs)
		}
		if err := s.fetches.enter(); !errors.Is(err, stats.ErrStopping) {
			t.Errorf("a request after Run has returned: %v, want ErrStopping", err)
		}
	})
}

// A deafSource fetches until it is told to end, whatever its context says.
type deafSource struct {
	endless
	end chan struct{}
}

func (d *deafSource) Fetch(context.Context, trust.Mapping) (*spool.NAR, error) {
	<-d.end
	return nil, store.ErrNotFound
}

func TestFetchThatDoesNotEndHoldsUpNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &deafSource{endless{m: trusttest.TextMapping(t, "asked", "x")}, make(chan struct{})}
		defer close(src.end)
		s := New(Config{Sources: []Source{src}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		request, hangUp := context.WithCancel(t.Context())
		go s.fetches.do(request, src.m)
		synctest.Wait()
		hangUp()
		cancel()
		start := time.Now()
		<-ended
		if took := time.Since(start); took > stopLimit {
			t.Errorf("Run returned after %v, want at most %v", took, stopLimit)
		}
	})
}

// A stuckStore answers a question with "not here" when it is told to end, whatever the question's context says.
func stuckStore(end chan struct{}) Source {
	info := func(store.HashPart) (store.Info, error) {
		<-end
		return store.Info{}, store.ErrNotFound
	}
	return local{src: stubStore{info: info}, keys: new(trust.Keys)}
}

func TestQuestionThatDoesNotEndHoldsUpNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		end := make(chan struct{})
		defer close(end)
		s := New(Config{Sources: []Source{stuckStore(end)}, Log: zap.New(core)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		hp := trusttest.TextMapping(t, "asked", "x").Path().HashPart()
		_, err := s.find(t.Context(), question{hashPart: hp, timeout: narinfoTimeout})
		s.accounts.NotFound(hp, err)
		time.Sleep(3 * time.Hour) // the bubble's clock: the store is asked whether Nix has fetched the path itself
		cancel()
		start := time.Now()
		<-ended
		if took := time.Since(start); took != stopLimit {
			t.Errorf("Run returned after %v, want %v", took, stopLimit)
		}
		if logs.FilterMessageSnippet("a question does not end").Len() != 1 {
			t.Errorf("logged %v, want that a question does not end", logs.All())
		}
		began := time.Now()
		_, err = s.find(t.Context(), question{hashPart: hp, timeout: narinfoTimeout})
		if took := time.Since(began); !errors.Is(err, stats.ErrStopping) || !errors.Is(err, store.ErrNotFound) || took != 0 {
			t.Errorf("a question after Run has returned: %v after %v, want ErrStopping and ErrNotFound at once", err, took)
		}
	})
}

func TestNoQuestionOutlastsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		end := make(chan struct{})
		s := New(Config{Sources: []Source{stuckStore(end)}, Log: zap.New(core)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		if _, err := s.find(t.Context(), question{timeout: narinfoTimeout}); err == nil {
			t.Error("a store that does not answer has the path")
		}
		cancel()
		start := time.Now()
		time.AfterFunc(time.Second, func() { close(end) })
		<-ended
		if took := time.Since(start); took != time.Second {
			t.Errorf("Run returned after %v, want 1s, when the question has ended", took)
		}
		if logs.Len() != 0 {
			t.Errorf("logged %v", logs.All())
		}
	})
}
