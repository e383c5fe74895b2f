package p2p

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

func TestMismatchesAreBoundedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := newSigner(t), newSigner(t)
		info, _ := there.sign(t, "path", randomNAR(100))
		m := newLedger("", zap.NewNop())
		for i := range maxMismatched + 10 {
			m.noteForged(here.keys, peer.ID(fmt.Sprint("peer ", i)), info)
		}
		got := m.otherKeys(here.keys)
		if len(got) != 1 || got[0].Key != "upstream-1" || len(got[0].Neighbours) != maxMismatched {
			t.Errorf("%d mismatches, want one of upstream-1 with %d neighbours: %+v", len(got), maxMismatched, got)
		}
		time.Sleep(mismatchTime + time.Second)
		if got := m.otherKeys(here.keys); len(got) != 0 {
			t.Errorf("after %v there are %+v, want none", mismatchTime, got)
		}
	})
}

// awaitNeighbours waits until a node has so many neighbours.
func awaitNeighbours(t testing.TB, n *Node, count int) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); len(n.neighbours()) < count; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d neighbours, want %d", len(n.neighbours()), count)
		}
	}
}
