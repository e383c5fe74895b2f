package flight_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store/flight"
)

// A handle counts itself while it is open.
type handle struct{ open *atomic.Int64 }

func newHandle(open *atomic.Int64) *handle {
	open.Add(1)
	return &handle{open}
}

func (h *handle) Retain() *handle { return newHandle(h.open) }

func (h *handle) Close() error {
	h.open.Add(-1)
	return nil
}

type group = flight.Group[string, *handle]

// gated is a call that succeeds once the gate is open, unless it is cancelled before.
type gated struct {
	gate    chan struct{}
	runs    atomic.Int64
	open    atomic.Int64 // handles
	stopped atomic.Int64 // runs that were cancelled
}

func newGated() *gated { return &gated{gate: make(chan struct{})} }

func (g *gated) run(ctx context.Context) (*handle, error) {
	g.runs.Add(1)
	select {
	case <-g.gate:
		return newHandle(&g.open), nil
	case <-ctx.Done():
		g.stopped.Add(1)
		return nil, ctx.Err()
	}
}

func TestCallersShareOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		c := newGated()
		var all sync.WaitGroup
		for range 20 {
			w := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 1, Run: c.run, Check: func(*handle) error {
				return errors.New("it is the caller's own")
			}})
			all.Go(func() {
				h, err := w.Wait(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				h.Close()
			})
		}
		other := g.Join(t.Context(), "b", flight.Call[*handle]{Name: 1, Run: c.run})
		synctest.Wait()
		close(c.gate)
		all.Wait()
		if h, err := other.Wait(t.Context()); err != nil {
			t.Error(err)
		} else {
			h.Close()
		}
		if c.runs.Load() != 2 || c.open.Load() != 0 {
			t.Errorf("%d runs for two keys, and %d handles are open; want 2 and 0", c.runs.Load(), c.open.Load())
		}
	})
}

func TestRunEndsWithItsLastCaller(t *testing.T) {
	for _, linger := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			g := group{MaxLingering: 1}
			c := newGated()
			call := flight.Call[*handle]{Name: 1, Run: c.run, Linger: linger}
			leave := func() { joinAndLeave(t, &g, call) }
			leave()
			if linger > 0 {
				time.Sleep(linger - 1)
				leave() // the time begins anew
				time.Sleep(linger - 1)
				if synctest.Wait(); c.stopped.Load() != 0 {
					t.Errorf("it ended %v after its last caller", linger-1)
				}
				time.Sleep(time.Nanosecond)
			}
			if synctest.Wait(); c.runs.Load() != 1 || c.stopped.Load() != 1 {
				t.Errorf("linger %v: %d runs, and %d cancelled, want 1 and 1", linger, c.runs.Load(), c.stopped.Load())
			}
		})
	}
}

// joinAndLeave joins with a call, and leaves at once.
func joinAndLeave(t *testing.T, g *group, call flight.Call[*handle]) {
	t.Helper()
	w := g.Join(t.Context(), "a", call)
	synctest.Wait()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Wait(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want Canceled", err)
	}
}

func TestRunLingersForOneThatHasLeftBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := group{MaxLingering: 1}
		c := newGated()
		joinAndLeave(t, &g, flight.Call[*handle]{Name: 1, Run: c.run, Linger: time.Minute})
		time.Sleep(30 * time.Second)
		joinAndLeave(t, &g, flight.Call[*handle]{Name: 1, Run: c.run})
		time.Sleep(30*time.Second - 1)
		if synctest.Wait(); c.stopped.Load() != 0 {
			t.Error("it ended within a minute after a caller that wanted it to last for that long")
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); c.stopped.Load() != 1 {
			t.Error("it has not ended a minute after that caller")
		}
	})
}

func TestRunThatIgnoresItsEndHoldsUpTheNextForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		stuck, next := make(chan struct{}), newGated()
		close(next.gate)
		joinAndLeave(t, &g, flight.Call[*handle]{Name: 1, Run: func(context.Context) (*handle, error) {
			<-stuck
			return nil, errors.New("late")
		}})
		start := time.Now()
		h, err := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 1, Run: next.run}).Wait(t.Context())
		if err != nil || time.Since(start) != 10*time.Second {
			t.Fatalf("the next call got %v after %v, want a value after 10s", err, time.Since(start))
		}
		h.Close()
		close(stuck)
	})
}

func TestRunsWithoutCallersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := group{MaxLingering: 3}
		c := newGated()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 5 {
			w := g.Join(t.Context(), fmt.Sprint(i), flight.Call[*handle]{Name: 1, Run: c.run, Linger: time.Minute})
			synctest.Wait()
			w.Wait(gone)
		}
		if synctest.Wait(); c.stopped.Load() != 2 {
			t.Errorf("%d of 5 were cancelled, want all but 3", c.stopped.Load())
		}
		close(c.gate)
		synctest.Wait()
		if n := c.open.Load(); n != 0 {
			t.Errorf("%d handles are open, that no caller has", n)
		}
	})
}

func TestNextRunWaitsForTheCancelledOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		var running, most, open atomic.Int64
		deaf := func(context.Context) (*handle, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(5 * time.Second)
			return newHandle(&open), nil
		}
		for range 3 {
			w := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 1, Run: deaf})
			gone, cancel := context.WithTimeout(t.Context(), time.Second)
			w.Wait(gone)
			cancel()
		}
		h, err := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 1, Run: deaf}).Wait(t.Context())
		if err != nil || most.Load() != 1 {
			t.Fatalf("Wait = %v, and %d ran at once, want 1", err, most.Load())
		}
		h.Close()
		if g.Running("a") != nil || open.Load() != 0 {
			t.Errorf("a run is left, or one of %d handles", open.Load())
		}
	})
}

func TestCallOfAnotherNameIsRunAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		first, second := errors.New("first"), errors.New("second")
		gate := make(chan struct{})
		fails := func(err error) func(context.Context) (*handle, error) {
			return func(context.Context) (*handle, error) { <-gate; return nil, err }
		}
		c := newGated()
		close(c.gate)
		a := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 1, Run: fails(first)})
		b := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 2, Run: fails(second)})
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		left := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 3, Run: c.run})
		left.Wait(gone)
		close(gate)
		if _, err := a.Wait(t.Context()); err != first {
			t.Errorf("the first got %v, want its own error", err)
		}
		if _, err := b.Wait(t.Context()); err != second {
			t.Errorf("the second got %v, want its own error", err)
		}
		if c.runs.Load() != 0 {
			t.Error("the call of a caller that has gone was run")
		}

		wrong := errors.New("wrong")
		a = g.Join(t.Context(), "b", flight.Call[*handle]{Name: 1, Run: fails(first), Check: func(*handle) error { return wrong }})
		b = g.Join(t.Context(), "b", flight.Call[*handle]{Name: 2, Run: c.run, Check: func(*handle) error { return wrong }})
		if _, err := a.Wait(t.Context()); err != wrong {
			t.Errorf("the first got %v, want what its check says of the second's value", err)
		}
		h, err := b.Wait(t.Context())
		if err != nil {
			t.Fatalf("the second got %v, want its value", err)
		}
		h.Close()
		if n := c.open.Load(); n != 0 {
			t.Errorf("%d handles are open", n)
		}
	})
}

func TestCallEndsWithItsContextAndNotWithAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		stop := errors.New("stop")
		ctx, end := context.WithCancelCause(t.Context())
		c, other := newGated(), newGated()
		a := g.Join(ctx, "a", flight.Call[*handle]{Name: 1, Run: c.run})
		b := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 2, Run: other.run})
		synctest.Wait()
		end(stop)
		if _, err := a.Wait(t.Context()); err != stop {
			t.Errorf("the first got %v, want the cause", err)
		}
		synctest.Wait()
		if c.stopped.Load() != 1 || other.runs.Load() != 1 {
			t.Errorf("of the first %d calls were cancelled, and %d of the second run, want 1 and 1", c.stopped.Load(), other.runs.Load())
		}
		close(other.gate)
		if h, err := b.Wait(t.Context()); err != nil {
			t.Errorf("the second got %v", err)
		} else {
			h.Close()
		}
	})
}

func TestFirstCallJoinsNoRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		c := newGated()
		first := flight.Call[*handle]{Name: 1, Run: c.run, First: true}
		w := g.Join(t.Context(), "a", first)
		if g.Join(t.Context(), "a", first) != nil {
			t.Error("a second call was the first")
		}
		if g.Running("a") == nil || g.Running("b") != nil {
			t.Error("one run is under way, want that of a")
		}
		close(c.gate)
		h, err := w.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
	})
}

func TestWhatIsHereNeedsNoRun(t *testing.T) {
	var open atomic.Int64
	g := group{Here: func(string) (*handle, bool) { return newHandle(&open), true }}
	checked := 0
	run := func(context.Context) (*handle, error) { return nil, errors.New("run") }
	h, err := g.Join(t.Context(), "a", flight.Call[*handle]{Name: 1, Run: run, Check: func(*handle) error { checked++; return nil }}).
		Wait(t.Context())
	if err != nil || checked != 1 {
		t.Fatalf("Wait = %v, and %d checks, want the value and 1", err, checked)
	}
	h.Close()
	if n := open.Load(); n != 0 {
		t.Errorf("%d handles are open", n)
	}
}
