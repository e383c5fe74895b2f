package p2p

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
)

func TestMismatchesAreBoundedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := newSigner(t), newSigner(t)
		info, _ := there.sign(t, "path", randomNAR(100))
		m := peers.NewLedger("", zap.NewNop())
		for i := range peers.MaxMismatched + 10 {
			m.NoteForged(here.keys, peer.ID(fmt.Sprint("peer ", i)), info)
		}
		got := m.OtherKeys(here.keys)
		if len(got) != 1 || got[0].Key != "upstream-1" || len(got[0].Neighbours) != peers.MaxMismatched {
			t.Errorf("%d mismatches, want one of upstream-1 with %d neighbours: %+v", len(got), peers.MaxMismatched, got)
		}
		time.Sleep(peers.MismatchTime + time.Second)
		if got := m.OtherKeys(here.keys); len(got) != 0 {
			t.Errorf("after %v there are %+v, want none", peers.MismatchTime, got)
		}
	})
}

// awaitNeighbours waits until a node has so many neighbours.
func awaitNeighbours(t testing.TB, n *Node, count int) {
	t.Helper()
	for limit := time.Now().Add(atMost(10 * time.Second)); len(n.neighbours.all()) < count; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d neighbours, want %d", len(n.neighbours.all()), count)
		}
	}
}
