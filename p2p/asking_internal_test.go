package p2p

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// find looks a path up until it is found: on a busy machine a neighbour may not answer in time, and for a while after that
// it is not waited for.
func find(t testing.TB, n *Node, hp store.HashPart) (m trust.Mapping) {
	t.Helper()
	eventually(t, "found "+string(hp), func() (ok bool) {
		var err error
		m, err = n.Lookup(t.Context(), hp)
		return err == nil
	})
	return m
}

// answersAll fails the test unless the neighbours of a node answer that many questions, all but a few of them at once.
func answersAll(t *testing.T, n *Node, hp store.HashPart, count int) {
	t.Helper()
	late := 0
	for range count {
		if _, err := n.Lookup(t.Context(), hp); err != nil {
			late++
			find(t, n, hp)
		}
	}
	if late > count/5 {
		t.Errorf("%d of %d questions were not answered at once", late, count)
	}
}

func TestQuestionIsAskedAgainAfterItsStreamHasBroken(t *testing.T) {
	s := newSigner(t)
	info, _ := s.sign(t, "small", randomNAR(1000))
	g := &rogue{info: info}
	var asked atomic.Int64
	g.claims = func(s network.Stream, r wire.Request) error {
		if asked.Add(1)%2 == 0 {
			return errEnd
		}
		return g.writeClaims(s, r)
	}
	n, _ := runNode(t, s, nil, g.start(t))
	answersAll(t, n, info.Path.HashPart(), 50)
	if asked.Load() < 90 {
		t.Errorf("the neighbour was asked %d times, want streams to break for half of 50 questions or more", asked.Load())
	}
}

func TestQuestionIsAskedAfterAStreamHasEndedUnnoticed(t *testing.T) {
	s := newSigner(t)
	info, _ := s.sign(t, "small", randomNAR(1000))
	g := &rogue{info: info}
	g.claims = func(s network.Stream, r wire.Request) error {
		if err := g.writeClaims(s, r); err != nil {
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		io.Copy(io.Discard, s) // a reset could overtake the answer
		return errEnd
	}
	n, _ := runNode(t, s, nil, g.start(t))
	answersAll(t, n, info.Path.HashPart(), 200)
}

func TestQuestionThatBreaksEveryStreamIsGivenUp(t *testing.T) {
	s := newSigner(t)
	info, _ := s.sign(t, "small", randomNAR(1000))
	g := &rogue{info: info}
	var asked atomic.Int64
	g.claims = func(network.Stream, wire.Request) error {
		asked.Add(1)
		return errEnd
	}
	n, _ := runNode(t, s, nil, g.start(t))
	if _, err := n.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup = %v, want ErrNotFound", err)
	}
	eventually(t, "given up", func() bool { return asked.Load() >= maxLost }) // on a busy machine after Lookup has
	if got := asked.Load(); got != maxLost {
		t.Errorf("the neighbour was asked %d times, want %d", got, maxLost)
	}
}

func TestQuestionAnsweredInAWrongFormatIsNotAskedAgain(t *testing.T) {
	s := newSigner(t)
	info, _ := s.sign(t, "small", randomNAR(1000))
	g := &rogue{info: info}
	var asked atomic.Int64
	g.claims = func(s network.Stream, _ wire.Request) error {
		asked.Add(1)
		_, err := s.Write([]byte{1}) // an empty claim that is still being received
		return err
	}
	n, _ := runNode(t, s, nil, g.start(t))
	if _, err := n.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup = %v, want ErrNotFound", err)
	}
	eventually(t, "struck", func() bool { return strikesOf(n, g) > 0 }) // on a busy machine after Lookup has given up
	if asked.Load() != 1 || strikesOf(n, g) != 1 {
		t.Errorf("the neighbour was asked %d times and has %d strikes, want 1 and 1", asked.Load(), strikesOf(n, g))
	}
}

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
	s := newSigner(t)
	info, _ := s.sign(t, "small", randomNAR(1000))
	n, _ := runNode(t, s, nil)
	nb := ghost(t, n)
	for range 50 { // the end of the wait is noticed first half of the time
		l := newLookup(n.lookups, info.Path.HashPart(), nil, 1)
		l.timer = time.AfterFunc(time.Hour, l.expire)
		l.owed = []owed{{by: nb, prompt: true}, {by: ghost(t, n), prompt: true}}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := l.wait(endingContext{ctx, cancel, func() { l.Answer(peers.Reply{From: nb, Text: info.String()}) }})
		if l.timer.Stop(); err != nil {
			t.Fatalf("wait = %v, want the mapping", err)
		}
	}
}

// A connectedHost has one connection with each peer.
type connectedHost struct{ host.Host }

func (connectedHost) Network() network.Network { return oneConn{} }

type oneConn struct{ network.Network }

func (oneConn) ConnsToPeer(peer.ID) []network.Conn { return []network.Conn{nil} }

// TestBusyNeighbourIsWaitedFor has a neighbour answer after peers.InfoTimeout.
func TestBusyNeighbourIsWaitedFor(t *testing.T) {
	s := newSigner(t)
	info, m := s.sign(t, "wanted", randomNAR(100))
	no := func(*lookups, *peers.Neighbour) {}
	silent := func(_ *lookups, nb *peers.Neighbour) { nb.Late.Store(1) }
	quick := func(_ *lookups, nb *peers.Neighbour) { nb.Answered(5 * time.Millisecond) }
	slow := func(_ *lookups, nb *peers.Neighbour) { nb.Answered(100 * time.Millisecond) }
	sends := func(_ *lookups, nb *peers.Neighbour) {
		nb.Answered(time.Millisecond)
		time.AfterFunc(peers.InfoTimeout/2, func() { nb.Brought.Store(time.Now().UnixNano()) })
	}
	answers := func(_ *lookups, nb *peers.Neighbour) {
		nb.Answered(time.Millisecond)
		time.AfterFunc(peers.InfoTimeout/2, func() { nb.Answered(time.Millisecond) })
	}
	// acked and unplugged say when its machine acknowledged something last, for a neighbour that is usually quick.
	acked := func(ls *lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		ls.sinceAck = func(network.ConnMultiaddrs) (time.Duration, bool) { return peers.InfoTimeout / 2, true }
	}
	unplugged := func(ls *lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		ls.sinceAck = func(network.ConnMultiaddrs) (time.Duration, bool) { return 2 * peers.InfoTimeout, true }
	}
	unknown := func(ls *lookups, nb *peers.Neighbour) {
		quick(ls, nb)
		ls.sinceAck = func(network.ConnMultiaddrs) (time.Duration, bool) { return 0, false }
	}
	spent := func(ls *lookups, nb *peers.Neighbour) {
		slow(ls, nb)
		ls.busy.Lose(time.Now().Add(-peers.MaxBusyWait), time.Now(), false)
	}
	for name, c := range map[string]struct {
		want  *trust.Mapping
		after time.Duration
		given func(*lookups, *peers.Neighbour) // what was before
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
		"a narinfo, slow":                              {nil, 2 * peers.InfoTimeout, slow, true, peers.BusyTimeout},
		"a narinfo, slow and far too late":             {nil, peers.BusyTimeout + time.Second, slow, false, peers.BusyTimeout},
		"a narinfo, while blocks come":                 {nil, 2 * peers.InfoTimeout, sends, true, peers.BusyTimeout},
		"a narinfo, while answers come":                {nil, 2 * peers.InfoTimeout, answers, true, peers.BusyTimeout},
		"a narinfo, slow, too often in vain":           {nil, 2 * peers.InfoTimeout, spent, false, peers.InfoTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := peers.NewLedger("", zap.NewNop())
				ls := newLookups(peers.NewSet(), book, secrets.New(secrets.Config{Trusted: s.keys}), zap.NewNop())
				nb := peers.NewNeighbour(connectedHost{}, "holder", wire.ProtocolID, book)
				c.given(ls, nb)
				l := newLookup(ls, info.Path.HashPart(), c.want, 1)
				l.ask([]*peers.Neighbour{nb})
				time.AfterFunc(c.after, func() { l.Answer(peers.Reply{From: nb, Text: info.String()}) })
				start := time.Now()
				f, err := l.wait(t.Context())
				took := time.Since(start)
				if (f != nil) != c.found || f == nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("wait = %v, %v, want a holder: %t", f, err, c.found)
				}
				if c.want == nil && f == nil && !errors.Is(err, ErrUnanswered) {
					t.Errorf("wait = %v, want that an answer has not come", err)
				}
				if took > c.limit {
					t.Errorf("it took %v, want at most %v", took, c.limit)
				}
				want := took - peers.InfoTimeout
				if c.found {
					want /= 4
				}
				if lost := peers.MaxBusyWait - ls.busy.Left(time.Now()); c.want == nil && c.limit == peers.BusyTimeout && lost != want {
					t.Errorf("%v count as lost, want %v", lost, want)
				}
				time.Sleep(c.after)
			})
		})
	}
}

// A neighbour that answers in time that it has nothing, or that was silent before, leaves no answer open.
func TestNoAnswerIsOpenAfterANo(t *testing.T) {
	for name, late := range map[string]bool{"it says no": false, "it was silent before": true} {
		synctest.Test(t, func(t *testing.T) {
			book := peers.NewLedger("", zap.NewNop())
			ls := newLookups(peers.NewSet(), book, secrets.New(secrets.Config{Trusted: newSigner(t).keys}), zap.NewNop())
			nb := peers.NewNeighbour(connectedHost{}, "holder", wire.ProtocolID, book)
			if late {
				nb.Late.Store(1)
			}
			l := newLookup(ls, partA, nil, 1)
			l.ask([]*peers.Neighbour{nb})
			if !late {
				l.Answer(peers.Reply{From: nb})
			}
			if _, err := l.wait(t.Context()); !errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrUnanswered) {
				t.Errorf("%s: wait = %v, want that no neighbour has it, and no open answer", name, err)
			}
		})
	}
}

func TestEndOfAQuestionEndsTheWaitForBusyNeighbours(t *testing.T) {
	for name, c := range map[string]struct {
		brief      bool
		ends       time.Duration // of the caller's context
		took, lost time.Duration
	}{
		"a stranger is asked in passing": {true, time.Hour, peers.InfoTimeout, 0},
		"the caller has no more time":    {false, 2 * peers.InfoTimeout, 2 * peers.InfoTimeout, peers.InfoTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := peers.NewLedger("", zap.NewNop())
				ls := newLookups(peers.NewSet(), book, secrets.New(secrets.Config{Trusted: newSigner(t).keys}), zap.NewNop())
				l := newLookup(ls, partA, nil, 1)
				l.brief = c.brief
				l.ask([]*peers.Neighbour{peers.NewNeighbour(nil, "busy", wire.ProtocolID, book)})
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

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(atMost(time.Minute)); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %s", what)
		}
	}
}

// awaitNeighbours waits until a node has so many neighbours.
func awaitNeighbours(t testing.TB, n *Node, count int) {
	t.Helper()
	for limit := time.Now().Add(atMost(10 * time.Second)); len(n.neighbours.All()) < count; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d neighbours, want %d", len(n.neighbours.All()), count)
		}
	}
}
