package peers

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"narbor/trust/trusttest"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

func TestMismatchesAreBoundedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := trusttest.NewSigner(t), trusttest.NewSigner(t)
		info, _ := there.SignSize(t, "path", 100)
		m := NewLedger("", zap.NewNop())
		for i := range maxMismatched + 10 {
			m.NoteForged(here.Keys, peer.ID(fmt.Sprint("peer ", i)), info)
		}
		got := m.OtherKeys(here.Keys)
		if len(got) != 1 || got[0].Key != "upstream-1" || len(got[0].Neighbours) != maxMismatched {
			t.Errorf("%d mismatches, want one of upstream-1 with %d neighbours: %+v", len(got), maxMismatched, got)
		}
		time.Sleep(mismatchTime + time.Second)
		if got := m.OtherKeys(here.Keys); len(got) != 0 {
			t.Errorf("after %v there are %+v, want none", mismatchTime, got)
		}
	})
}
