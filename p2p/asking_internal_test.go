package p2p

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// absentPart is the hash part of a path that no neighbour has.
var absentPart = store.HashPartFromBytes([wire.HashPartBytes]byte{})

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

func TestAnswersOfABrokenBatchCount(t *testing.T) {
	s := newSigner(t)
	info, _ := s.sign(t, "small", randomNAR(1000))
	g := &rogue{info: info}
	g.claims = func(s network.Stream, r wire.Request) error {
		if _, err := s.Write(wire.AppendClaim(nil, "", false)); err != nil {
			return err
		}
		return s.CloseWrite()
	}
	n, _ := runNode(t, s, nil, g.start(t))
	nb := n.neighbours()[0]
	absent := newLookup(n, absentPart, nil, 1)
	present := newLookup(n, info.Path.HashPart(), nil, 1)
	for _, l := range []*lookup{absent, present} {
		l.timer = time.AfterFunc(time.Minute, l.expire)
		l.owed = []owed{{by: nb, prompt: true}}
	}
	rest := nb.AskOn(t.Context(), []peers.Question{absent, present})
	if len(rest) != 1 || rest[0] != present {
		t.Fatalf("askOn returned %d questions, want the one that was not answered", len(rest))
	}
	if _, err := absent.wait(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the question that was answered = %v, want ErrNotFound", err)
	}
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
	eventually(t, "given up", func() bool { return asked.Load() >= peers.MaxLost }) // on a busy machine after Lookup has
	if got := asked.Load(); got != peers.MaxLost {
		t.Errorf("the neighbour was asked %d times, want %d", got, peers.MaxLost)
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

func TestNodeThatIsBeingStoppedAnswersNothing(t *testing.T) {
	n, info := sharing(t, randomNAR(1000))
	g := (&rogue{}).start(t)
	g.connect(t, n, "/ip4/127.0.0.1")
	conn := n.lan.Host().Network().ConnsToPeer(g.ID())[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	claims := wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}
	for range 30 { // half of the time there is a turn first
		for _, r := range []wire.Request{claims, blockRequest(info, 0)} {
			var out bytes.Buffer
			w := answers{bufio.NewWriterSize(&out, 16), new(toldParts)}
			if err := n.server.answer(ctx, n.server.clientOn(conn), w, r); err == nil || out.Len() > 0 {
				t.Fatalf("answer to a request of kind %d = %v and %q, want an error and nothing", r.Kind, err, out.Bytes())
			}
		}
	}
	w := answers{bufio.NewWriter(io.Discard), new(toldParts)}
	if err := n.server.answerClaims(ctx, n.server.clientOn(conn), w, claims); err == nil || w.Buffered() > 0 {
		t.Errorf("answerClaims = %v with %d bytes to send, want an error and nothing", err, w.Buffered())
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
		l := newLookup(n, info.Path.HashPart(), nil, 1)
		l.timer = time.AfterFunc(time.Hour, l.expire)
		l.owed = []owed{{by: nb, prompt: true}, {by: ghost(t, n), prompt: true}}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := l.wait(endingContext{ctx, cancel, func() { l.Answer(peers.Reply{From: nb, Text: info.String()}) }})
		if l.timer.Stop(); err != nil {
			t.Fatalf("wait = %v, want the mapping", err)
		}
	}
}

// TestFirstHolderOfANARIsWaitedFor has a neighbour answer after infoTimeout.
func TestFirstHolderOfANARIsWaitedFor(t *testing.T) {
	info, m := newSigner(t).sign(t, "wanted", randomNAR(100))
	for name, c := range map[string]struct {
		want  *trust.Mapping
		after time.Duration
		late  bool // it was silent before
		found bool
	}{
		"a NAR":               {&m, (infoTimeout + holderTimeout) / 2, false, true},
		"a NAR, far too late": {&m, holderTimeout + time.Second, false, false},
		"a NAR, of a neighbour that was silent before": {&m, 2 * infoTimeout, true, false},
		"a narinfo": {nil, 2 * infoTimeout, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := peers.NewLedger("", zap.NewNop())
				n := &Node{ledger: book, log: zap.NewNop(), findings: peers.NewCache[store.HashPart, *finding](1)}
				nb := peers.NewNeighbour(nil, "holder", wire.ProtocolID, book)
				if c.late {
					nb.Late.Store(1)
				}
				l := newLookup(n, info.Path.HashPart(), c.want, 1)
				l.ask([]*peers.Neighbour{nb})
				time.AfterFunc(c.after, func() { l.Answer(peers.Reply{From: nb, Text: info.String()}) })
				start := time.Now()
				f, err := l.wait(t.Context())
				took := time.Since(start)
				if (f != nil) != c.found || f == nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("wait = %v, %v, want a holder: %t", f, err, c.found)
				}
				limit := map[bool]time.Duration{true: c.after, false: holderTimeout}[c.found]
				if c.late {
					limit = infoTimeout
				}
				if took > limit {
					t.Errorf("it took %v, want at most %v", took, limit)
				}
				time.Sleep(c.after)
			})
		})
	}
}
