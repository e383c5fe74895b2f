package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

func TestPeerThatAlwaysSaysLaterIsDropped(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, m := s.Sign(t, "big", nar)
	var asked atomic.Int64
	later := func(s network.Stream, _ int, _ []byte) error {
		asked.Add(1)
		_, err := s.Write([]byte{byte(wire.ErrLater)})
		return err
	}
	relay := (&rogue{info: info, nar: nar, have: all(4), block: later}).start(t)
	n, _ := runNode(t, s, nil, relay)
	if sp, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
	if got := asked.Load(); got > fetch.MaxLaters+1+fetch.PartialWindow {
		t.Errorf("the peer was asked for %d blocks, want at most %d", got, fetch.MaxLaters+1+fetch.PartialWindow)
	}
}

func TestSwarmWithoutAHolderIsGivenUp(t *testing.T) {
	t.Parallel()
	s := trusttest.NewSigner(t)
	relay := &rogue{have: wire.NewBitmap(1)}
	relay.start(t)
	n, _ := runNode(t, s, nil, relay)
	var nar []byte
	for i := 0; ; i++ { // until the block is this node's own, for which no other is asked
		nar = FileNAR(append(p2ptest.Random(1000), byte(i)))
		info, m := s.Sign(t, fmt.Sprint("small", i), nar)
		if fetch.Weight(fetch.WeightSeed(n.lan.Host().ID(), m.NarHash()), 0) < fetch.Weight(fetch.WeightSeed(relay.ID(), m.NarHash()), 0) {
			continue
		}
		relay.info, relay.nar = info, nar
		ctx, cancel := context.WithTimeout(t.Context(), 4*fetch.PartialStall)
		defer cancel()
		// Its members have nothing to send, which is no slowness.
		if sp, err := n.Fetch(ctx, m); !errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrSlow) {
			t.Errorf("Fetch = %v, %v, want ErrNotFound, and not because it is too slow", sp, err)
		}
		return
	}
}
