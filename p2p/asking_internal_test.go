package p2p

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// find looks a path up until it is found: on a busy machine a neighbour may not answer in time, and for a while after
// that it is not waited for.
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
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "small", randomNAR(1000))
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
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "small", randomNAR(1000))
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

// askedTwice is the number of streams on which a question is asked.
const askedTwice = 2

func TestQuestionThatBreaksEveryStreamIsGivenUp(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "small", randomNAR(1000))
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
	eventually(t, "given up", func() bool { return asked.Load() >= askedTwice }) // on a busy machine after Lookup has
	if got := asked.Load(); got != askedTwice {
		t.Errorf("the neighbour was asked %d times, want %d", got, askedTwice)
	}
}

func TestQuestionAnsweredInAWrongFormatIsNotAskedAgain(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "small", randomNAR(1000))
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

// awaitNeighbours waits until a node has so many neighbours.
func awaitNeighbours(t testing.TB, n *Node, count int) {
	t.Helper()
	for limit := time.Now().Add(atMost(10 * time.Second)); len(n.neighbours.All()) < count; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d neighbours, want %d", len(n.neighbours.All()), count)
		}
	}
}
