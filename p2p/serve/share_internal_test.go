package serve

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A stepwise source lets each read of a NAR wait for a step, and counts open archives.
type stepwise struct {
	store.Source
	steps       chan struct{}
	open, reads atomic.Int64
}

type stepwiseNAR struct {
	store.NAR
	src *stepwise
}

func (s *stepwise) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := s.Source.NAR(ctx, info)
	if err == nil {
		s.open.Add(1)
	}
	return stepwiseNAR{nar, s}, err
}

func (n stepwiseNAR) ReadAt(p []byte, off int64) (int, error) {
	<-n.src.steps
	n.src.reads.Add(1)
	return n.NAR.ReadAt(p, off)
}

func (n stepwiseNAR) Close() error {
	n.src.open.Add(-1)
	return n.NAR.Close()
}

func TestSharingEndsAtOnceAndComesBack(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(64 * store.BlockSize)
	info, _ := s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	src := &stepwise{Source: mem, steps: make(chan struct{})}
	srv := newTestServer(t, s.Keys, src)
	claims, blocks := dial(t, srv, "asker", "127.0.0.1"), dial(t, srv, "asker", "127.0.0.1")
	claim := func() string {
		t.Helper()
		send(claims, wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}})
		br := bufio.NewReader(claims)
		text, _, err := wire.ReadClaim(br)
		if err == nil {
			err = wire.ReadFurther(br, func(store.HashPart, string) {})
		}
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if claim() == "" {
		t.Fatal("there is no claim while it is shared")
	}
	var requests []wire.Request
	for i := range 64 {
		requests = append(requests, blockRequest(info, i))
	}
	send(blocks, requests...)
	br, b, answers := bufio.NewReader(blocks), make([]byte, store.BlockSize), make(chan error, 64)
	go func() {
		for range 64 {
			_, _, err := wire.ReadBlock(br, b)
			answers <- err
		}
	}()
	for range 10 {
		src.steps <- struct{}{}
	}
	eventually(t, "read ten blocks", func() bool { return src.reads.Load() == 10 })
	srv.Share(false) // while the eleventh is being read, or about to
	close(src.steps)
	got := 0
	for i := range 64 {
		switch err := <-answers; {
		case err == nil && i == got:
			got++
		case !errors.Is(err, store.ErrNotFound):
			t.Fatalf("block %d = %v, want the block, or from one on that it is not here", i, err)
		}
	}
	if got > 11 {
		t.Errorf("%d blocks came, want at most the one under way after the tenth", got)
	}
	if claim() != "" {
		t.Error("there is a claim though nothing is shared")
	}
	send(blocks, wire.Request{Kind: wire.AskManifest, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash})
	if _, err := wire.ReadManifest(br, info.NarSize); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("readManifest = %v, want ErrNotFound", err)
	}
	eventually(t, "closed what was open for the neighbour", func() bool { return src.open.Load() == 0 })

	srv.Share(true)
	if claim() == "" {
		t.Error("there is no claim once it is shared again")
	}
	send(blocks, blockRequest(info, 63))
	if _, _, err := wire.ReadBlock(br, b); err != nil {
		t.Errorf("readBlock once it is shared again = %v", err)
	}
	if got := srv.cfg.Ledger.TallyOf("asker").Strikes.Load(); got != 0 {
		t.Errorf("the neighbour has %d strikes, want none", got)
	}
}

func TestManifestEndsWithSharing(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(8 * store.BlockSize)
	info, _ := s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	sh := newSharer([]store.Source{mem}, nil, trust.Policy{Keys: s.Keys})
	digests := 0
	err := sh.manifest(t.Context(), blockRequest(info, 0), func(int) error { return nil }, func([]byte) error {
		if digests++; digests == 3 {
			sh.Share(false)
		}
		return nil
	})
	if !errors.Is(err, store.ErrNotFound) || digests != 3 {
		t.Errorf("manifest = %v after %d digests, want ErrNotFound after 3", err, digests)
	}
}

func TestNothingIsHeldOpenOnceSharingIsOff(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(1000)
	info, _ := s.Sign(t, "shared", nar)
	src := &counted{Source: new(store.Mem), t: t}
	src.Source.(*store.Mem).Add(info, nar)
	sh := newSharer([]store.Source{src}, nil, trust.Policy{Keys: s.Keys})
	o, err := sh.acquire(t.Context(), narKey{info.Path.HashPart(), info.NarHash})
	if err != nil {
		t.Fatal(err)
	}
	sh.release(o)
	if got := src.open.Load(); got != 1 {
		t.Fatalf("%d NARs are open after a read, want 1", got)
	}
	sh.Share(false)
	if got := src.open.Load(); got != 0 {
		t.Errorf("%d NARs are open though nothing is shared", got)
	}
}

func TestOfferedNARIsClosedAfterAWhile(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := fileNAR(p2ptest.Random(1000))
	info, m := s.Sign(t, "offered", nar)
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	draft, err := sp.Create(info.NarHash, info.NarSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.WriteAt(nar, 0); err != nil {
		t.Fatal(err)
	}
	spooled, err := draft.Commit(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer spooled.Close()
	synctest.Test(t, func(t *testing.T) {
		srv := newTestServer(t, s.Keys)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { srv.Run(ctx) })
		srv.Offer(m, spooled)
		open := func() int {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			return len(srv.open)
		}
		time.Sleep(openNARIdle / 2)
		if got := open(); got != 1 {
			t.Errorf("%d NARs are open after %s, want 1", got, openNARIdle/2)
		}
		time.Sleep(openNARIdle)
		if got := open(); got != 0 {
			t.Errorf("%d NARs are open after %s, want none", got, openNARIdle*3/2)
		}
		cancel()
		running.Wait()
	})
}
