package narserve

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// oneAtATime has goroutines run one at a time until the test ends, so that one which ends a context and goes on has
// answered before the one that waits for both runs.
func oneAtATime(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

func TestAnswerOfTheLastMomentCounts(t *testing.T) {
	oneAtATime(t)
	m := trusttest.TextMapping(t, "hello", "x")
	ctx, cancel := context.WithCancel(t.Context())
	src := finder(func(context.Context, store.HashPart) (trust.Mapping, error) {
		cancel()
		return m, nil
	})
	s := New(Config{Sources: []Source{src}, Log: zap.NewNop()})
	if got, err := s.find(ctx, question{hashPart: m.Path().HashPart(), timeout: narinfoTimeout}); err != nil || got.Path() != m.Path() {
		t.Errorf("an answer that came with the end of the request is %v, %v; want the path", got.Path(), err)
	}
}

// patientFinder is a finder that has a second to answer.
type patientFinder struct{ finder }

func (patientFinder) Patience() time.Duration { return time.Second }

func TestSourceThatDidNotAnswerIsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := finder(func(ctx context.Context, _ store.HashPart) (trust.Mapping, error) {
			<-ctx.Done()
			return trust.Mapping{}, ctx.Err()
		})
		says := patientFinder{func(context.Context, store.HashPart) (trust.Mapping, error) {
			time.Sleep(400 * time.Millisecond)
			return trust.Mapping{}, store.ErrNotFound
		}}
		s := New(Config{Sources: []Source{hangs, says}, Log: zap.NewNop()})
		if _, err := s.find(t.Context(), question{timeout: narinfoTimeout}); !errors.Is(err, stats.ErrNoAnswer) {
			t.Errorf("find = %v, want ErrNoAnswer, because one source has not answered", err)
		}
	})
}

func TestFetchThatEndsAtTheLastMomentCounts(t *testing.T) {
	oneAtATime(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := errors.New("failed")
	f := newFetches(spool.NewFetches(nil), func(context.Context, trust.Mapping) (*spool.NAR, error) {
		cancel()
		return nil, failed
	})
	_, err := f.do(ctx, trusttest.TextMapping(t, "asked", "x"))
	if !errors.Is(err, failed) {
		t.Errorf("a fetch that ended with the request returned %v, want its own error", err)
	}
}

func TestEndedRequestIsNotFound(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := New(Config{Settled: make(chan struct{}), Log: zap.NewNop()})
	if _, err := s.find(ctx, question{timeout: narinfoTimeout}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the error of a request that has ended is %v, want ErrNotFound", err)
	}
}

func TestSlowNeighboursAreTheReason(t *testing.T) {
	slow := fmt.Errorf("%w: %w", store.ErrNotFound, store.ErrSlow)
	here := finder(func(context.Context, store.HashPart) (trust.Mapping, error) {
		return trust.Mapping{}, store.ErrNotFound
	})
	near := finder(func(context.Context, store.HashPart) (trust.Mapping, error) { return trust.Mapping{}, slow })
	accounts := stats.New()
	s := New(Config{Sources: []Source{here, near}, Accounts: accounts, Log: zap.NewNop()})
	hp := store.HashPart("bhg1c6wywawwaaivx0k0x8xhbyx4vwic")
	_, err := s.find(t.Context(), question{hashPart: hp, timeout: narinfoTimeout})
	if !errors.Is(err, store.ErrSlow) {
		t.Errorf("find = %v, want ErrSlow", err)
	}
	accounts.NotFound(hp, err)
	if got := accounts.Account().Requests; len(got) != 1 || got[0].Reason != "neighbours have it, and send it too slowly" {
		t.Errorf("the page shows %+v, want that neighbours are too slow", got)
	}
}
