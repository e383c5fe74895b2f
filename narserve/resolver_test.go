package narserve_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/narserve"
	"narbor/store"
	"narbor/trust"
)

var errBroken = errors.New("broken")

// deaf returns a lookup that ignores its context until release is closed.
func deaf(release chan struct{}) func(context.Context, store.HashPart) (trust.Mapping, error) {
	return func(context.Context, store.HashPart) (trust.Mapping, error) {
		<-release
		return trust.Mapping{}, store.ErrNotFound
	}
}

// after makes a source slow.
func after(d time.Duration, src narserve.Source) *probe {
	return &probe{lookup: func(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
		select {
		case <-time.After(d):
			return src.Lookup(ctx, hp)
		case <-ctx.Done():
			return trust.Mapping{}, ctx.Err()
		}
	}}
}

// patient is a source that has a second to answer, and is relied on to return then.
type patient struct{ narserve.Source }

func (patient) Patience() time.Duration { return time.Second }

func panics(context.Context, store.HashPart) (trust.Mapping, error) { panic("at the disco") }

func fails(context.Context, store.HashPart) (trust.Mapping, error) { return trust.Mapping{}, errBroken }

func confused(context.Context, store.HashPart) (trust.Mapping, error) { return trust.Mapping{}, nil }

func TestNarinfoDeadline(t *testing.T) {
	release := make(chan struct{})
	empty := func() narserve.Source { return newWorld(t).local() }
	for _, tt := range []struct {
		name    string
		sources func(w *world) []narserve.Source
		status  int
		after   time.Duration
	}{
		{"no source", func(*world) []narserve.Source { return nil }, 404, 0},
		{"at once", func(w *world) []narserve.Source { return []narserve.Source{w.local()} }, 200, 0},
		{"the second has it", func(w *world) []narserve.Source { return []narserve.Source{empty(), w.local()} }, 200, 0},
		{"not there", func(w *world) []narserve.Source { return []narserve.Source{empty(), empty()} }, 404, 0},
		{"deaf", func(*world) []narserve.Source { return []narserve.Source{&probe{lookup: deaf(release)}} }, 404, 300 * time.Millisecond},
		{"two deaf", func(*world) []narserve.Source {
			return []narserve.Source{&probe{lookup: deaf(release)}, &probe{lookup: deaf(release)}}
		}, 404, 300 * time.Millisecond},
		{"a deaf one leaves time for the next", func(w *world) []narserve.Source {
			return []narserve.Source{&probe{lookup: deaf(release)}, after(150*time.Millisecond, w.local())}
		}, 200, 250 * time.Millisecond},
		{"a late answer counts", func(w *world) []narserve.Source {
			return []narserve.Source{after(290*time.Millisecond, w.local()), empty()}
		}, 200, 290 * time.Millisecond},
		{"too late", func(w *world) []narserve.Source {
			return []narserve.Source{after(301*time.Millisecond, w.local())}
		}, 404, 300 * time.Millisecond},
		{"a busy one is waited for", func(w *world) []narserve.Source {
			return []narserve.Source{empty(), patient{after(990*time.Millisecond, w.local())}}
		}, 200, 990 * time.Millisecond},
		{"a busy one that is too late", func(w *world) []narserve.Source {
			return []narserve.Source{patient{after(2*time.Second, w.local())}}
		}, 404, time.Second},
		{"an answer ends the question to a patient one", func(w *world) []narserve.Source {
			return []narserve.Source{after(200*time.Millisecond, w.local()), patient{after(time.Hour, empty())}}
		}, 200, 200 * time.Millisecond},
		{"a patient one holds up no source after it", func(w *world) []narserve.Source {
			return []narserve.Source{patient{after(time.Hour, empty())}, w.local()}
		}, 200, 100 * time.Millisecond},
		{"panic of a patient one", func(*world) []narserve.Source { return []narserve.Source{patient{&probe{lookup: panics}}} }, 404, 0},
		{"a deaf one has no part in the patience of the next", func(*world) []narserve.Source {
			return []narserve.Source{&probe{lookup: deaf(release)}, patient{after(100*time.Millisecond, empty())}}
		}, 404, 300 * time.Millisecond},
		{"a deaf one costs no more than a busy one has taken", func(*world) []narserve.Source {
			return []narserve.Source{&probe{lookup: deaf(release)}, patient{after(600*time.Millisecond, empty())}}
		}, 404, 700 * time.Millisecond},
		{"panic", func(*world) []narserve.Source { return []narserve.Source{&probe{lookup: panics}} }, 404, 0},
		{"panic, then found", func(w *world) []narserve.Source { return []narserve.Source{&probe{lookup: panics}, w.local()} }, 200, 0},
		{"error, then found", func(w *world) []narserve.Source { return []narserve.Source{&probe{lookup: fails}, w.local()} }, 200, 0},
		{"no mapping and no error", func(*world) []narserve.Source { return []narserve.Source{&probe{lookup: confused}} }, 404, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			info, _ := w.add(t, "hello", 10)
			release = make(chan struct{})
			defer close(release)
			s := narserve.New(narserve.Config{Sources: tt.sources(w), Keys: w.keys})
			began := time.Now()
			wantStatus(t, tt.name, do(s, "GET", narinfoPath(info)), tt.status)
			if dur := time.Since(began); dur != tt.after {
				t.Errorf("%s: answered after %v, want %v", tt.name, dur, tt.after)
			}
		})
	}
}

func TestAnotherPathsMappingIsNoAnswer(t *testing.T) {
	w := newWorld(t)
	asked, _ := w.info(t, "asked", 10)
	other, _ := w.add(t, "other", 10)
	swapped := &probe{lookup: func(ctx context.Context, _ store.HashPart) (trust.Mapping, error) {
		return w.local().Lookup(ctx, other.Path.HashPart())
	}}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{swapped}, Keys: w.keys})
	wantStatus(t, "narinfo of a path for which the source returns another's mapping", do(s, "GET", narinfoPath(asked)), 404)
}

// TestEarlyMissHasPatience covers what Nix would remember for an hour: a 404 before the neighbours are known.
func TestEarlyMissHasPatience(t *testing.T) {
	const never = time.Hour
	for _, tt := range []struct {
		name             string
		settles, appears time.Duration // since the start
		asked            time.Duration
		status           int
		after            time.Duration // since the start
		lookups          int32
	}{
		{"there from the start", never, 0, 0, 200, 0, 1},
		{"appears before it settles", 700 * time.Millisecond, 600 * time.Millisecond, 0, 200, 700 * time.Millisecond, 2},
		{"does not appear", 700 * time.Millisecond, never, 0, 404, 700 * time.Millisecond, 2},
		{"never settles", never, never, 0, 404, 2 * time.Second, 2},
		{"never settles, appears", never, 1900 * time.Millisecond, 0, 200, 2 * time.Second, 2},
		{"asked late", never, never, 1500 * time.Millisecond, 404, 2 * time.Second, 2},
		{"asked after it settled", 700 * time.Millisecond, never, 900 * time.Millisecond, 404, 900 * time.Millisecond, 1},
		{"asked after the patience", never, never, 3 * time.Second, 404, 3 * time.Second, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			info, _ := w.add(t, "hello", 10)
			began := time.Now()
			src := &probe{lookup: func(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
				if time.Since(began) < tt.appears {
					return trust.Mapping{}, store.ErrNotFound
				}
				return w.local().Lookup(ctx, hp)
			}}
			settled := make(chan struct{})
			timer := time.AfterFunc(tt.settles, func() { close(settled) })
			defer timer.Stop()
			s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Settled: settled})
			time.Sleep(tt.asked) // the bubble's clock
			wantStatus(t, tt.name, do(s, "GET", narinfoPath(info)), tt.status)
			if dur := time.Since(began); dur != tt.after {
				t.Errorf("%s: answered at %v, want %v", tt.name, dur, tt.after)
			}
			if n := src.lookups.Load(); n != tt.lookups {
				t.Errorf("%s: %d lookups, want %d", tt.name, n, tt.lookups)
			}
		})
	}
}

func TestPatienceIsBoundedWhateverTheSourceDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.info(t, "hello", 10)
		release := make(chan struct{})
		defer close(release)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{&probe{lookup: deaf(release)}}, Settled: make(chan struct{})})
		began := time.Now()
		wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 404)
		if dur := time.Since(began); dur != 2300*time.Millisecond {
			t.Errorf("answered after %v, want 2.3s", dur)
		}
	})
}

func TestNixHangingUpEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.info(t, "hello", 10)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Settled: make(chan struct{})})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		began := time.Now()
		doContext(ctx, s, "GET", narinfoPath(info))
		if dur := time.Since(began); dur != 5*time.Millisecond {
			t.Errorf("the request ended after %v, want 5ms", dur)
		}
	})
}

func TestStuckSourceCollectsNoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 10)
		release := make(chan struct{})
		stuck := &probe{lookup: deaf(release)}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{stuck, w.local()}, Keys: w.keys})
		var ok atomic.Int32
		for range 1000 {
			go func() {
				if do(s, "GET", narinfoPath(info)).StatusCode == http.StatusOK {
					ok.Add(1)
				}
			}()
		}
		time.Sleep(time.Second)
		if n := stuck.lookups.Load(); n != 256 {
			t.Errorf("a stuck source was asked %d questions, want 256", n)
		}
		if ok.Load() != 1000 {
			t.Errorf("%d of 1000 requests were answered by the next source", ok.Load())
		}
		close(release)
	})
}

func TestFailingSourceIsLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t)
	info, _ := w.add(t, "hello", 10)
	src := &probe{inner: w.local(), lookup: fails}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Log: zap.New(core)})
	for range 100 {
		wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 404)
	}
	if logs.Len() != 1 || logs.All()[0].Level != zap.WarnLevel {
		t.Errorf("100 failures made these lines: %v, want one warning", logs.All())
	}
	src.lookup = nil
	for range 10 {
		wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 200)
	}
	if logs.Len() != 2 {
		t.Errorf("and 10 answers made these: %v, want one more", logs.All()[1:])
	}
	if st := s.Stats(); st.NarinfoHits != 10 || st.NarinfoMisses != 100 {
		t.Errorf("Stats = %+v, want 10 hits and 100 misses", st)
	}
}

func TestSlowerSourceIsNotBlamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		w := newWorld(t)
		info, _ := w.add(t, "hello", 10)
		sources := []narserve.Source{after(200*time.Millisecond, w.local()), w.local()}
		s := narserve.New(narserve.Config{Sources: sources, Keys: w.keys, Log: zap.New(core)})
		wantStatus(t, "narinfo", do(s, "GET", narinfoPath(info)), 200)
		synctest.Wait()
		if logs.Len() != 0 {
			t.Errorf("logged %v", logs.All())
		}
	})
}

func TestOrdinaryMissesAreNotLogged(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t)
	info, _ := w.info(t, "hello", 10)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys, Log: zap.New(core)})
	do(s, "GET", narinfoPath(info))
	do(s, "GET", narPath(info))
	do(s, "GET", "/x")
	if logs.Len() != 0 {
		t.Errorf("logged %v", logs.All())
	}
}
