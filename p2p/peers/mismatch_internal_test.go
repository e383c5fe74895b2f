package peers

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
		info := there.sign(t, "path", 100).Info()
		m := NewLedger("", zap.NewNop())
		for i := range maxMismatched + 10 {
			m.NoteForged(here.keys, peer.ID(fmt.Sprint("peer ", i)), info)
		}
		got := m.OtherKeys(here.keys)
		if len(got) != 1 || got[0].Key != "upstream-1" || len(got[0].Neighbours) != maxMismatched {
			t.Errorf("%d mismatches, want one of upstream-1 with %d neighbours: %+v", len(got), maxMismatched, got)
		}
		time.Sleep(mismatchTime + time.Second)
		if got := m.OtherKeys(here.keys); len(got) != 0 {
			t.Errorf("after %v there are %+v, want none", mismatchTime, got)
		}
	})
}
