package narserve_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/trust"
)

func TestUpstreamIsAskedLastAndWithPatience(t *testing.T) {
	for _, tt := range []struct {
		name   string
		near   bool
		takes  time.Duration
		known  bool
		asked  bool
		status int
		after  time.Duration
	}{
		{"near", true, 0, true, false, 200, 0},
		{"far", false, 2 * time.Second, true, true, 200, 2 * time.Second},
		{"too far", false, time.Minute, true, true, 404, 6 * time.Second},
		{"nowhere", false, time.Second, false, true, 404, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, far := newWorld(t), newWorld(t)
			far.keys = w.keys
			info, _ := w.add(t, "hello", 10)
			sources := []narserve.Source{w.local()}
			if !tt.near {
				sources = []narserve.Source{far.local()}
			}
			var asked atomic.Bool // a lookup goes on after its request has ended
			s := narserve.New(narserve.Config{Sources: sources, Keys: w.keys,
				Upstream: func(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
					asked.Store(true)
					if !tt.known {
						time.Sleep(tt.takes)
						return trust.Mapping{}, store.ErrNotFound
					}
					return after(tt.takes, w.local()).Lookup(ctx, hp)
				}})
			began := time.Now()
			wantStatus(t, tt.name, do(s, "GET", narinfoPath(info)), tt.status)
			if dur := time.Since(began); dur != tt.after || asked.Load() != tt.asked {
				t.Errorf("%s: answered after %v, want %v; upstream asked: %v, want %v", tt.name, dur, tt.after, asked.Load(), tt.asked)
			}
		})
	}
}

func TestUpstreamIsNotAskedForAnotherNarbor(t *testing.T) {
	w := newWorld(t)
	info, _ := w.info(t, "hello", 10)
	s := narserve.New(narserve.Config{Keys: w.keys, Upstream: func(context.Context, store.HashPart) (trust.Mapping, error) {
		t.Error("the upstream was asked")
		return trust.Mapping{}, store.ErrNotFound
	}})
	wantStatus(t, "another narbor", do(s, "GET", narinfoPath(info), "User-Agent", narserve.AgentPrefix+"1"), 404)
}
