package p2p

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/upstream"
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

func TestSizesOfDownloadsAreToldRounded(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(100_001)
	info, m := s.Sign(t, "odd", nar)
	u := newOneCache(t, info, nar).open(t, "")
	n, _ := runNodeAs(t, s, func(cfg *Config) { cfg.Upstreams.Caches = []*upstream.Cache{u} })
	fetchAll(t, n, m, nar)
	const step = 16 << 10
	if got := u.Received(); got%step == 0 {
		t.Fatalf("%d bytes received, which says nothing", got)
	}
	if got := n.proxy.upstreams.downloaded(); got == 0 || got%step != 0 || got > u.Received() {
		t.Errorf("downloaded = %d of %d bytes, want a multiple of %d", got, u.Received(), step)
	}
}

func TestDownloadForOthersEndsUnlessItIsRenewed(t *testing.T) {
	s := trusttest.NewSigner(t)
	_, m := s.Sign(t, "wanted", randomNAR(1000))
	synctest.Test(t, func(t *testing.T) {
		b := newProxyDownloads(DefaultBudget)
		ended := make(chan struct{})
		start := time.Now()
		begun := func() bool { return true }
		if mine, _ := b.begin(netip.AddrFrom4([4]byte{192, 0, 2, 1}), m, begun, func() { close(ended) }); !mine {
			t.Fatal("no job")
		}
		time.Sleep(fetch.LeaseTime / 2)
		if !b.touch(m.NarHash()) {
			t.Fatal("the job is not there")
		}
		select {
		case <-ended:
		case <-time.After(time.Hour):
		}
		if took := time.Since(start); took != fetch.LeaseTime*3/2 {
			t.Errorf("the download ends after %s, want %s: when it was asked for last, and %s", took, fetch.LeaseTime*3/2, fetch.LeaseTime)
		}
	})
}
