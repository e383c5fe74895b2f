package ask_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/ask"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust/trusttest"
)

// A neighbour that answers in time that it has nothing, or that was silent before, leaves no answer open.
func TestNoAnswerIsOpenAfterANo(t *testing.T) {
	info, _ := trusttest.NewSigner(t).SignSize(t, "wanted", 1000)
	for name, late := range map[string]bool{"it says no": false, "it was silent before": true} {
		synctest.Test(t, func(t *testing.T) {
			ls := ask.NewLookups(trusttest.NewSigner(t).Keys)
			nb := ask.NewNeighbour(ls, "holder")
			ls.Neighbours.Add(nb)
			if late {
				nb.Late.Store(1)
			} else {
				go func() { (<-nb.Asks).Answer(peers.Reply{From: nb}) }()
			}
			if _, err := ls.Lookup(t.Context(), info.Path.HashPart(), nil); !errors.Is(err, store.ErrNotFound) ||
				errors.Is(err, ask.ErrUnanswered) {
				t.Errorf("%s: Lookup = %v, want that no neighbour has it, and no open answer", name, err)
			}
		})
	}
}

func TestUpstreamClaimAboutAnotherPathIsALie(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.SignSize(t, "other", 1000)
	wanted, _ := s.SignSize(t, "wanted", 1000)
	ls := ask.NewLookups(s.Keys)
	nb := ask.NewNeighbour(ls, "proxy")
	if m, err := ls.Told(nb, wanted.Path.HashPart(), info.String()); !errors.Is(err, peers.ErrName) {
		t.Errorf("Told = %v, %v, want ErrName", m, err)
	}
	if got := nb.Tally.Strikes.Load(); got != 1 {
		t.Errorf("the neighbour has %d strikes, want 1", got)
	}
	if m, err := ls.Told(nb, info.Path.HashPart(), info.String()); err != nil || m.Path() != info.Path {
		t.Errorf("Told about the path = %v, %v, want its mapping", m, err)
	}
}

// A dialer always has a non-neighbour to visit, and notes which visits were useful.
type dialer map[peer.ID]bool

func (dialer) Miss() bool { return true }

func (d dialer) EndVisit(id peer.ID, useful bool) { d[id] = useful }

// Two non-neighbours are visited one after the other; the second has nothing that is still missed.
func TestVisitIsUsefulIfTheMachineHasAMissedPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := trusttest.NewSigner(t)
		info, _ := s.SignSize(t, "wanted", 1000)
		ls, ended := ask.NewLookups(s.Keys), dialer{}
		v := ask.NewVisits(ls, ended)
		v.Missed(info.Path.HashPart())
		first, second := ask.NewNeighbour(ls, "first"), ask.NewNeighbour(ls, "second")
		go func() { (<-first.Asks).Answer(peers.Reply{From: first, Text: info.String()}) }()
		v.TryOut(t.Context(), first)
		v.TryOut(t.Context(), second)
		if !ended["first"] || ended["second"] || len(second.Asks) != 0 {
			t.Errorf("useful are %v, and the second was asked %d times; want the first alone, and no question after it",
				ended, len(second.Asks))
		}
	})
}
