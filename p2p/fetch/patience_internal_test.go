package fetch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/peers"
	"narbor/store"
)

// TestOnlyHoldersThatWereAskedAreBlamed evaluates downloads of a minute. Each holder is asked from a second on, counted
// from the beginning, and delivers so many bytes a second.
func TestOnlyHoldersThatWereAskedAreBlamed(t *testing.T) {
	failed := fmt.Errorf("x: %w", store.ErrNotFound)
	late := errors.Join(failed, context.DeadlineExceeded)
	const never = -1
	type part struct {
		from, pace int
		avoided    bool // afterwards
	}
	for _, c := range []struct {
		name  string
		err   error
		parts []part
	}{
		{"a slow one that comes in time is not avoided for this NAR", nil, []part{{0, 1000, false}}},
		{"a slow one is why the time was over", late, []part{{0, 1000, true}}},
		{"one that was never asked is not", late, []part{{0, 1000, true}, {never, 0, false}}},
		{"nor one that has not delivered but was never asked", failed, []part{{0, 1000, true}, {never, 0, false}}},
		{"all that were asked are avoided for a while", late, []part{{0, 0, true}, {0, 1 << 20, true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, record := newTestFetch()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var nbs []*peers.Neighbour
				for _, p := range c.parts {
					nb := peerNamed(fmt.Sprint(len(nbs)))
					nbs = append(nbs, nb)
					f.plan.sources.all = append(f.plan.sources.all, nb)
					if p.from != never {
						f.plan.sources.ask(nb, time.Now())
					}
				}
				time.Sleep(time.Minute)
				for i, p := range c.parts {
					nbs[i].Tally.BytesReceived.Add(int64(p.pace * 60))
				}
				f.account(began, c.err)
				for i, p := range c.parts {
					if got := record.avoided[nbs[i].ID]; got != p.avoided {
						t.Errorf("holder %d is avoided: %v, want %v", i, got, p.avoided)
					}
				}
			})
		})
	}
}

// TestSlowHolderBesideFastOnesIsNotSetAside has two downloads in a row that take long because the NARs are large.
func TestSlowHolderBesideFastOnesIsNotSetAside(t *testing.T) {
	for _, fast := range []bool{true, false} {
		f, _ := newTestFetch()
		synctest.Test(t, func(t *testing.T) {
			spared, other := peerNamed("spared"), peerNamed("other")
			f.plan.sources.all = []*peers.Neighbour{spared, other}
			for range 2 {
				clear(f.plan.sources.asked)
				f.plan.sources.ask(spared, time.Now())
				f.plan.sources.ask(other, time.Now())
				began := time.Now()
				time.Sleep(2 * tardyAfter)
				if fast {
					other.Tally.BytesReceived.Add(100 << 20)
				}
				f.account(began, nil)
				time.Sleep(time.Second)
			}
			if _, why := spared.Tally.Aside(time.Now()); (why != "") == fast {
				t.Errorf("with another holder that is fast: %v, the slow one is set aside: %q", fast, why)
			}
		})
	}
}

// TestWaitingHoldersAreNotMarkedSlow marks while one holder is at work and another has not been asked.
func TestWaitingHoldersAreNotMarkedSlow(t *testing.T) {
	f, _ := newTestFetch()
	f.join([]Holder{{peerNamed("a"), false}, {peerNamed("b"), false}})
	atWork := f.plan.nextHolder()
	f.plan.markSlow()
	for _, nb := range f.plan.sources.all {
		if got, want := f.plan.sources.tooSlow[nb], nb == atWork; got != want {
			t.Errorf("a holder is too slow: %v, want %v", got, want)
		}
	}
}

func TestHoldersAreRatedByAllThatComesFromThem(t *testing.T) {
	f, _ := newTestFetch()
	synctest.Test(t, func(t *testing.T) {
		nb := peerNamed("a")
		f.plan.sources.all = []*peers.Neighbour{nb}
		var p progress
		for range 11 {
			p.sample(time.Now(), f.plan)
			nb.Tally.BytesReceived.Add(1000)
			time.Sleep(time.Second)
		}
		p.record()
		if got := nb.Rate(time.Now()); got != 1000 {
			t.Errorf("the rate of a holder that sends 1000 bytes a second is %d", got)
		}
	})
}
