package serve

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A counted source counts the NARs that it has open, and fails the test when one is closed twice or read after.
type counted struct {
	store.Source
	t            testing.TB
	open, opened atomic.Int64
}

type countedNAR struct {
	store.NAR
	src    *counted
	closed atomic.Bool
}

func (c *counted) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := c.Source.NAR(ctx, info)
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	c.opened.Add(1)
	return &countedNAR{NAR: nar, src: c}, nil
}

func (n *countedNAR) ReadAt(p []byte, off int64) (int, error) {
	if rand.IntN(8) == 0 {
		return 0, fmt.Errorf("the disk has a bad day")
	}
	k, err := n.NAR.ReadAt(p, off)
	if n.closed.Load() {
		n.src.t.Error("read from a closed NAR")
	}
	return k, err
}

func (n *countedNAR) Close() error {
	if n.closed.Swap(true) {
		n.src.t.Error("a NAR was closed twice")
	}
	n.src.open.Add(-1)
	return n.NAR.Close()
}

func TestSharedNARsAreClosedOnce(t *testing.T) {
	s := trusttest.NewSigner(t)
	mem := new(store.Mem)
	var infos []store.Info
	for i := range 2 * maxOpenNARs {
		nar := p2ptest.Random(100 + i)
		info, _ := s.Sign(t, fmt.Sprintf("p%d", i), nar)
		mem.Add(info, nar)
		infos = append(infos, info)
	}
	src := &counted{Source: mem, t: t}
	sh := newSharer([]store.Source{src}, nil, trust.Policy{Keys: s.Keys})
	var readers sync.WaitGroup
	for range 16 {
		readers.Go(func() {
			buf := make([]byte, store.BlockSize)
			for range 150 {
				info := infos[rand.IntN(len(infos))]
				if rand.IntN(4) == 0 {
					info.NarHash[0]++ // not here
				}
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(8) == 0 {
					cancel()
				}
				sh.readBlock(ctx, blockRequest(info, rand.IntN(2)), buf)
				cancel()
				if rand.IntN(100) == 0 {
					sh.CloseIdle(0)
				}
			}
		})
	}
	readers.Wait()
	if got := src.open.Load(); got > maxOpenNARs+1 {
		t.Errorf("%d NARs are open, want at most %d", got, maxOpenNARs)
	}
	if len(infos) > int(src.opened.Load()) {
		t.Errorf("only %d NARs were opened", src.opened.Load())
	}
	sh.CloseIdle(0)
	if got := src.open.Load(); got != 0 || len(sh.open) != 0 {
		t.Errorf("%d NARs are open at the end, and %d in the table", got, len(sh.open))
	}
}
