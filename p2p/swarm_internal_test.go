package p2p

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/receive"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// all is a bitmap of a NAR that is complete.
func all(blocks int) wire.Bitmap {
	b := wire.NewBitmap(blocks)
	for i := range blocks {
		b.Set(i)
	}
	return b
}

// flip makes a rogue pass on blocks that are wrong.
func flip(s network.Stream, _ int, b []byte) error {
	wrong := bytes.Clone(b)
	wrong[len(wrong)/2] ^= 1
	return writeAs(s, statusRelayed, wrong)
}

func TestRelayOfLieIsNotStruck(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(20*store.BlockSize + 1)
	info, m := s.Sign(t, "big", nar)
	relay := (&rogue{info: info, nar: nar, have: all(21), block: flip}).start(t)
	var n *Node
	var before atomic.Int64
	relayed := func() int64 { return n.ledger.TallyOf(relay.ID()).BlocksReceived.Load() }
	running := make(chan struct{})
	honest := (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, b []byte) error {
		<-running
		for limit := time.Now().Add(atMost(4 * time.Second)); relayed() <= before.Load() && time.Now().Before(limit); {
			time.Sleep(time.Millisecond) // leaves the relay a part
		}
		return writeRaw(s, b)
	}}).start(t)
	n, _ = runNode(t, s, nil, honest, relay)
	close(running)
	for round := range strikesToBan {
		before.Store(relayed())
		fetchAll(t, n, m, nar)
		tally := n.ledger.TallyOf(relay.ID())
		if got, want := tally.IsDistrusted(time.Now()), round+1 == strikesToBan; got != want {
			t.Fatalf("after %d NARs with wrong blocks: distrusted is %v, want %v", round+1, got, want)
		}
		if s := [2]int64{strikesOf(n, relay), strikesOf(n, honest)}; s != [2]int64{} {
			t.Fatalf("strikes %v, want none: neither the partial peer nor the holder has lied", s)
		}
		forgetNAR(t, n, m)
	}
	was := relayed()
	before.Store(-1)
	fetchAll(t, n, m, nar)
	if got := relayed(); got != was {
		t.Errorf("%d more blocks taken from a peer that has passed on wrong ones %d times", got-was, strikesToBan)
	}
}

// forgetNAR empties the spool of a NAR, by replacing it with an empty one.
func forgetNAR(t *testing.T, n *Node, m trust.Mapping) {
	t.Helper()
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sp.Close() })
	n.cfg.Spool, n.cfg.Fetches = sp, spool.NewFetches(sp.Get)
	n.downloads = receive.New(receive.Config{Fetched: receive.NewFetched(sp, n.cfg.Fetches), Server: n.server, Lookups: n.lookups,
		Sessions: n.downloads.Sessions})
}

func TestRelayedBlocksAreTaken(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(20*store.BlockSize + 1)
	info, m := s.Sign(t, "big", nar)
	never := func(s network.Stream, _ int, _ []byte) error {
		_, err := io.Copy(io.Discard, s)
		return err
	}
	stuck := (&rogue{info: info, nar: nar, block: never}).start(t)
	relay := (&rogue{info: info, nar: nar, have: all(21)}).start(t)
	n, _ := runNode(t, s, nil, stuck, relay)
	fetchAll(t, n, m, nar)
	if got := n.ledger.TallyOf(relay.ID()).BlocksReceived.Load(); got < 20 {
		t.Errorf("%d blocks from the relay, want all", got)
	}
}

func TestPartialPeersAloneAreNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	s := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, m := s.Sign(t, "big", nar)
	relay := (&rogue{info: info, nar: nar, have: wire.NewBitmap(4)}).start(t)
	n, _ := runNode(t, s, nil, relay)
	ctx, cancel := context.WithTimeout(t.Context(), 4*fetch.PartialStall)
	defer cancel()
	sp, err := n.Fetch(ctx, m)
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
	if s := strikesOf(n, relay); s != 0 {
		t.Errorf("%d strikes for waiting, want none", s)
	}
}

// receiving returns a node that has the first of a NAR's blocks and waits for the others, and a stream to it.
func receiving(t *testing.T, s trusttest.Signer, nar []byte, name string, stored bool) (n *Node, m trust.Mapping, stream network.Stream) {
	t.Helper()
	info, m := s.Sign(t, name, nar)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	g := (&rogue{info: info, nar: nar, block: func(s network.Stream, i int, b []byte) error {
		if i > 0 {
			<-release
		}
		return writeRaw(s, b)
	}}).start(t)
	var share []store.Source
	if stored {
		share = []store.Source{new(store.Mem)}
	}
	n, _ = runNode(t, s, share, g)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		if sp, err := n.Fetch(ctx, m); err == nil {
			sp.Close()
		}
	}()
	eventually(t, "given the first block", func() bool {
		f := n.downloads.Session(m.Path().HashPart())
		return f != nil && f.Have().Has(0)
	})
	other := (&rogue{}).start(t)
	return n, m, other.dial(t, n)
}

func askedOf(t *testing.T, s network.Stream, r wire.Request, answer int) []byte {
	t.Helper()
	if _, err := s.Write(r.Append(nil)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, answer)
	s.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(s, b); err != nil {
		t.Fatalf("answer to %+v: %v", r, err)
	}
	return b
}

func TestWhatIsBeingReceivedIsPassedOn(t *testing.T) {
	nar := randomNAR(3 * store.BlockSize)
	_, m, stream := receiving(t, trusttest.NewSigner(t), nar, "big", true)
	r := wire.Request{HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}
	r.Kind = wire.AskHave
	if got := askedOf(t, stream, r, 2); !bytes.Equal(got, []byte{1, 1}) {
		t.Errorf("have = %x, want the first of three blocks, 0101", got)
	}
	r.Kind, r.Block = wire.AskBlock, 0
	head := []byte{statusRelayed, 0x80, 0x80, 0x10}
	if got := askedOf(t, stream, r, len(head)+store.BlockSize); !bytes.Equal(got, append(head, nar[:store.BlockSize]...)) {
		t.Errorf("block 0 begins %x, want %x and the block", got[:8], head)
	}
	r.Block = 1
	if got := askedOf(t, stream, r, 1); got[0] != byte(wire.ErrLater) {
		t.Errorf("block 1 = %x, want later", got)
	}
	r.Kind, r.Block = wire.AskManifest, 0
	if got := askedOf(t, stream, r, 1); got[0] != 0 {
		t.Errorf("manifest = %x, want none: nothing is vouched for yet", got)
	}
	claim := wire.AppendClaim(nil, m.Info().String(), true)
	if got := askedOf(t, stream, wire.Request{Kind: wire.AskClaims, HashParts: r.HashParts}, len(claim)); !bytes.Equal(got, claim) {
		t.Errorf("claim is %q, want %q", got, claim)
	}
}

func TestNodeWithoutSharingPassesNothingOn(t *testing.T) {
	_, m, stream := receiving(t, trusttest.NewSigner(t), p2ptest.Random(3*store.BlockSize), "big", false)
	r := wire.Request{HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}
	for _, kind := range []wire.Kind{wire.AskClaims, wire.AskHave, wire.AskBlock} {
		r.Kind = kind
		if got := askedOf(t, stream, r, 1); got[0] != 0 {
			t.Errorf("request of kind %d is answered %x, want not here", kind, got)
		}
	}
}
