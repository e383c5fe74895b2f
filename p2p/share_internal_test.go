package p2p

import (
	"bufio"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"narbor/p2p/wire"
	"narbor/store"
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

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(atMost(20 * time.Second)); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %s", what)
		}
	}
}

func TestSharingEndsAtOnceAndComesBack(t *testing.T) {
	s := newSigner(t)
	nar := randomNAR(64 * store.BlockSize)
	info, _ := s.sign(t, "shared", nar)
	mem := store.NewMem()
	mem.Add(info, nar)
	src := &stepwise{Source: mem, steps: make(chan struct{})}
	n, _ := runNode(t, s, []store.Source{src})
	g := (&rogue{}).start(t)
	claims, blocks := g.dial(t, n), g.dial(t, n)
	claim := func() string {
		t.Helper()
		claims.SetDeadline(time.Now().Add(20 * time.Second))
		claims.Write(wire.AppendRequest(nil, wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}))
		text, _, err := wire.ReadClaim(bufio.NewReader(claims))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if claim() == "" {
		t.Fatal("there is no claim while it is shared")
	}
	blocks.SetDeadline(time.Now().Add(20 * time.Second))
	for i := range 64 {
		blocks.Write(wire.AppendRequest(nil, blockRequest(info, i)))
	}
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
	n.Share(false) // while the eleventh is being read, or about to
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
	blocks.Write(wire.AppendRequest(nil,
		wire.Request{Kind: wire.AskManifest, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}))
	if _, err := wire.ReadManifest(br, info.NarSize); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("readManifest = %v, want ErrNotFound", err)
	}
	eventually(t, "closed what was open for the neighbour", func() bool { return src.open.Load() == 0 })

	n.Share(true)
	if claim() == "" {
		t.Error("there is no claim once it is shared again")
	}
	blocks.Write(wire.AppendRequest(nil, blockRequest(info, 63)))
	if _, _, err := wire.ReadBlock(br, b); err != nil {
		t.Errorf("readBlock once it is shared again = %v", err)
	}
	if got := strikesOf(n, g); got != 0 {
		t.Errorf("the neighbour has %d strikes, want none", got)
	}
}

func TestManifestEndsWithSharing(t *testing.T) {
	s := newSigner(t)
	nar := randomNAR(8 * store.BlockSize)
	info, _ := s.sign(t, "shared", nar)
	mem := store.NewMem()
	mem.Add(info, nar)
	sh := newSharer([]store.Source{mem}, nil, s.keys)
	digests := 0
	err := sh.manifest(t.Context(), blockRequest(info, 0), func(int) error { return nil }, func([]byte) error {
		if digests++; digests == 3 {
			sh.share(false)
		}
		return nil
	})
	if !errors.Is(err, store.ErrNotFound) || digests != 3 {
		t.Errorf("manifest = %v after %d digests, want ErrNotFound after 3", err, digests)
	}
}

func TestNothingIsHeldOpenOnceSharingIsOff(t *testing.T) {
	s := newSigner(t)
	nar := randomNAR(1000)
	info, _ := s.sign(t, "shared", nar)
	src := &counted{Source: store.NewMem(), t: t}
	src.Source.(*store.Mem).Add(info, nar)
	sh := newSharer([]store.Source{src}, nil, s.keys)
	o, err := sh.acquire(t.Context(), narKey{info.Path.HashPart(), info.NarHash})
	if err != nil {
		t.Fatal(err)
	}
	sh.release(o)
	if got := src.open.Load(); got != 1 {
		t.Fatalf("%d NARs are open after a read, want 1", got)
	}
	sh.share(false)
	if got := src.open.Load(); got != 0 {
		t.Errorf("%d NARs are open though nothing is shared", got)
	}
}
