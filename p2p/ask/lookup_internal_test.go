package ask

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// An endingContext ends when it is asked whether it has, and does something before.
type endingContext struct {
	context.Context
	cancel, before func()
}

func (c endingContext) Done() <-chan struct{} {
	c.before()
	c.cancel()
	return c.Context.Done()
}

func TestAnswerThatComesAsTheWaitEndsCounts(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.SignSize(t, "small", 1000)
	ls := newTestLookups(s.Keys)
	nb, other := newTestNeighbour(ls, "holder"), newTestNeighbour(ls, "other")
	for range 50 { // the end of the wait is noticed first half of the time
		l := newLookup(ls.common, info.Path.HashPart(), nil, 1)
		l.timer = time.AfterFunc(time.Hour, l.expire)
		l.owed = []owed{{by: nb, prompt: true}, {by: other, prompt: true}}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := l.wait(endingContext{ctx, cancel, func() { l.Answer(peers.Reply{From: nb, Text: info.String()}) }})
		if l.timer.Stop(); err != nil {
			t.Fatalf("wait = %v, want the mapping", err)
		}
	}
}

// TestBusyNeighbourIsWaitedFor has a neighbour answer after peers.InfoTimeout.
func TestBusyNeighbourIsWaitedFor(t *testing.T) { synctest.Test(t, testBusyNeighbourIsWaitedFor) }

func testBusyNeighbourIsWaitedFor(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, m := s.SignSize(t, "wanted", 100)
	no := func(*Lookups, *peers.Neighbour) {}
	silent := func(_ *Lookups, nb *peers.Neighbour) { nb.Late.Store(1) }
	lately := func(_ *Lookups, nb *peers.Neighbour) {
		nb.Answered(5 * time.Millisecond)
		time.Sleep(time.Second)
	}
	broughtLately := func(ls *Lookups, nb *peers.Neighbour) {
		nb.Answered(5 * time.Millisecond)
		time.Sleep(time.Minute)
		nb.Brought.Store(time.Now().UnixNano())
		time.Sleep(time.Second)
	}
	quick := func(_ *Lookups, nb *peers.Neighbour) {
		nb.Answered(5 * time.Millisecond)
		nb.Brought.Store(time.Now().UnixNano())
		time.Sleep(3 * time.Second)
	}
	slow := func(_ *Lookups, nb *peers.Neighbour) { nb.Answered(100 * time.Millisecond) }
	sends := func(ls *Lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		time.AfterFunc(peers.InfoTimeout/2, func() { nb.Brought.Store(time.Now().UnixNano()) })
	}
	answers := func(ls *Lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		time.AfterFunc(peers.InfoTimeout/2, func() { nb.Answered(time.Millisecond) })
	}
	// acked and unplugged say when its machine acknowledged something last, for a neighbour that is usually quick.
	acked := func(ls *Lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		ls.SinceAck = func(network.ConnMultiaddrs) (time.Duration, bool) { return peers.InfoTimeout / 2, true }
	}
	unplugged := func(ls *Lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		ls.SinceAck = func(network.ConnMultiaddrs) (time.Duration, bool) { return 2 * peers.InfoTimeout, true }
	}
	unknown := func(ls *Lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		ls.SinceAck = func(network.ConnMultiaddrs) (time.Duration, bool) { return 0, false }
	}
	spent := func(ls *Lookups, nb *peers.Neighbour) {
		slow(ls, nb)
		ls.busy.Lose(time.Now().Add(-peers.MaxBusyWait), time.Now(), false)
	}
	for name, c := range map[string]struct {
		want  *trust.Mapping
		after time.Duration
		given func(*Lookups, *peers.Neighbour) // what was before
		found bool
		limit time.Duration
	}{
		"a NAR":               {&m, (peers.InfoTimeout + peers.BusyTimeout) / 2, no, true, peers.BusyTimeout},
		"a NAR, far too late": {&m, peers.BusyTimeout + time.Second, no, false, peers.BusyTimeout},
		"a NAR, of a neighbour that was silent before": {&m, 2 * peers.InfoTimeout, silent, false, peers.InfoTimeout},
		"a narinfo, not asked before":                  {nil, 2 * peers.InfoTimeout, no, true, peers.BusyTimeout},
		"a narinfo, usually quick":                     {nil, 2 * peers.InfoTimeout, quick, false, peers.InfoTimeout},
		"a narinfo, quick, its machine acknowledges":   {nil, 2 * peers.InfoTimeout, acked, true, peers.BusyTimeout},
		"a narinfo, quick, its machine does not":       {nil, 2 * peers.InfoTimeout, unplugged, false, peers.InfoTimeout},
		"a narinfo, quick, that is not known":          {nil, 2 * peers.InfoTimeout, unknown, false, peers.InfoTimeout},
		"a narinfo, quick, answered a moment ago":      {nil, 2 * peers.InfoTimeout, lately, true, peers.BusyTimeout},
		"a narinfo, quick, sent blocks a moment ago":   {nil, 2 * peers.InfoTimeout, broughtLately, true, peers.BusyTimeout},
		"a narinfo, slow":                              {nil, 2 * peers.InfoTimeout, slow, true, peers.BusyTimeout},
		"a narinfo, slow and far too late":             {nil, peers.BusyTimeout + time.Second, slow, false, peers.BusyTimeout},
		"a narinfo, while blocks come":                 {nil, 2 * peers.InfoTimeout, sends, true, peers.BusyTimeout},
		"a narinfo, while answers come":                {nil, 2 * peers.InfoTimeout, answers, true, peers.BusyTimeout},
		"a narinfo, slow, too often in vain":           {nil, 2 * peers.InfoTimeout, spent, false, peers.InfoTimeout},
	} {
		ls := newTestLookups(s.Keys)
		nb := newTestNeighbour(ls, "holder")
		c.given(ls, nb)
		l := newLookup(ls.common, info.Path.HashPart(), c.want, 1)
		l.ask([]*peers.Neighbour{nb})
		time.AfterFunc(c.after, func() { l.Answer(peers.Reply{From: nb, Text: info.String()}) })
		start := time.Now()
		f, err := l.wait(t.Context())
		took := time.Since(start)
		if (f != nil) != c.found || f == nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: wait = %v, %v, want a holder: %t", name, f, err, c.found)
		}
		if c.want == nil && f == nil && !errors.Is(err, ErrUnanswered) {
			t.Errorf("%s: wait = %v, want that an answer has not come", name, err)
		}
		if took > c.limit {
			t.Errorf("%s: it took %v, want at most %v", name, took, c.limit)
		}
		want := took - peers.InfoTimeout
		if c.found {
			want /= 4
		}
		if lost := peers.MaxBusyWait - ls.busy.Left(time.Now()); c.want == nil && c.limit == peers.BusyTimeout && lost != want {
			t.Errorf("%s: %v count as lost, want %v", name, lost, want)
		}
		time.Sleep(c.after)
	}
}

// TestMachineThatDiedCostsOneWait asks a neighbour that was quick one question after the other once it is dead.
func TestMachineThatDiedCostsOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := newTestLookups(trusttest.NewSigner(t).Keys)
		nb := newTestNeighbour(ls, "dead")
		for range 20 {
			nb.Answered(5 * time.Millisecond)
		}
		start := time.Now()
		for range 20 {
			l := newLookup(ls.common, p2ptest.PartA, nil, 1)
			l.ask([]*peers.Neighbour{nb})
			if _, err := l.wait(t.Context()); !errors.Is(err, store.ErrNotFound) {
				t.Fatalf("wait = %v, want ErrNotFound", err)
			}
		}
		if took, most := time.Since(start), peers.BusyTimeout+2*peers.InfoTimeout; took > most {
			t.Errorf("20 questions took %v, want at most %v", took, most)
		}
		if lost, most := peers.MaxBusyWait-ls.busy.Left(time.Now()), peers.BusyTimeout-peers.InfoTimeout; lost > most {
			t.Errorf("%v count as lost, want at most %v", lost, most)
		}
	})
}

// TestMachineThatDiedLeavesTimeToBusyOnes asks a neighbour that was quick a question every 50 ms once it is dead.
func TestMachineThatDiedLeavesTimeToBusyOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := newTestLookups(trusttest.NewSigner(t).Keys)
		nb := newTestNeighbour(ls, "dead")
		for range 20 {
			nb.Answered(5 * time.Millisecond)
		}
		var asking sync.WaitGroup
		for range 40 {
			asking.Go(func() {
				l := newLookup(ls.common, p2ptest.PartA, nil, 1)
				l.ask([]*peers.Neighbour{nb})
				if _, err := l.wait(t.Context()); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("wait = %v, want ErrNotFound", err)
				}
				if !ls.busy.Allows(time.Now()) {
					t.Errorf("%v are left, too little to wait for a busy neighbour", ls.busy.Left(time.Now()))
				}
			})
			time.Sleep(50 * time.Millisecond)
		}
		asking.Wait()
	})
}

func TestEndOfAQuestionEndsTheWaitForBusyNeighbours(t *testing.T) {
	for name, c := range map[string]struct {
		brief      bool
		ends       time.Duration // of the caller's context
		took, lost time.Duration
	}{
		"a non-neighbour is asked in passing": {true, time.Hour, peers.InfoTimeout, 0},
		"the caller has no more time":         {false, 2 * peers.InfoTimeout, 2 * peers.InfoTimeout, peers.InfoTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ls := newTestLookups(trusttest.NewSigner(t).Keys)
				l := newLookup(ls.common, p2ptest.PartA, nil, 1)
				l.brief = c.brief
				l.ask([]*peers.Neighbour{peers.NewNeighbour(nil, "busy", wire.ProtocolID, ls.Ledger)})
				ctx, cancel := context.WithTimeout(t.Context(), c.ends)
				defer cancel()
				start := time.Now()
				if _, err := l.wait(ctx); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("wait = %v, want ErrNotFound", err)
				}
				lost := peers.MaxBusyWait - ls.busy.Left(time.Now())
				if took := time.Since(start); took != c.took || lost != c.lost {
					t.Errorf("it took %v, of which %v count as lost, want %v and %v", took, lost, c.took, c.lost)
				}
				time.Sleep(peers.BusyTimeout)
			})
		})
	}
}

func TestAbandonedQuestionsAreNotAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := newTestLookups(trusttest.NewSigner(t).Keys)
		nb := newTestNeighbour(ls, "holder")
		nb.Answered(0)
		time.Sleep(3 * time.Second) // or the first question to it would be waited for longer
		old := &lookup{of: ls.common, subject: subject{hp: p2ptest.PartA}, news: make(chan struct{}, 1)}
		old.ask([]*peers.Neighbour{nb})
		old.expire()
		fresh := &lookup{of: ls.common, subject: subject{hp: p2ptest.PartB}, news: make(chan struct{}, 1)}
		fresh.ask([]*peers.Neighbour{nb})
		defer fresh.expire()
		if old.Awaits(nb) || !fresh.Awaits(nb) {
			t.Error("want an answer awaited only while a caller waits for it")
		}
	})
}
