package p2p

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/offered"
	"narbor/trust/trusttest"
)

// A countingSource counts the questions about claims.
type countingSource struct {
	store.Source
	asked atomic.Int64
}

func (s *countingSource) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	s.asked.Add(1)
	return s.Source.Info(ctx, hp)
}

// offer sends an offer on a stream, and reports whether the node shares the path.
func offer(t testing.TB, s network.Stream, claim store.Info) bool {
	t.Helper()
	s.SetDeadline(time.Now().Add(atMost(20 * time.Second)))
	if _, err := s.Write(wire.Request{Kind: wire.AskOffer, Offer: claim}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	here, err := wire.ReadOffered(bufio.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return here
}

// A hostile peer's offers make a holder share nothing, whatever their number; and another peer's offer is taken after
// them.
func TestHostileOffers(t *testing.T) {
	s, other, nar := trusttest.NewSigner(t), trusttest.NewSigner(t), randomNAR(1000)
	signed, _ := s.Sign(t, "image", nar)
	another, _ := s.Sign(t, "another", nar)
	poison, _ := s.Sign(t, "image", randomNAR(2000))
	forged, _ := other.Sign(t, "image", nar)
	swapped, unsigned := signed, signed
	swapped.Signatures, unsigned.Signatures = another.Signatures, nil
	book, err := offered.Open("")
	if err != nil {
		t.Fatal(err)
	}
	mem := new(store.Mem)
	mem.Add(unsigned, nar)
	src := &countingSource{Source: mem}
	n, _ := runNodeAs(t, s, func(cfg *Config) {
		cfg.Sharing.Sources, cfg.Sharing.Keep = []store.Source{book.Source(src)}, book.Keep
	})
	liar := (&rogue{}).start(t)
	stream := liar.dial(t, n)
	for name, claim := range map[string]store.Info{"signature of another path": swapped, "another NarHash": poison,
		"signature by another key of that name": forged, "path that is not here": another} {
		if offer(t, stream, claim) {
			t.Errorf("%s: the offer is taken", name)
		}
		if _, kept := book.Of(unsigned); kept {
			t.Errorf("%s: a signature is kept", name)
		}
	}
	if got := strikesOf(n, liar); got != 0 {
		t.Errorf("the liar has %d strikes, and an honest peer may have other keys", got)
	}

	const flood = 20_000 // more than a peer may ask in vain
	unknown := poison
	unknown.Signatures = []string{"unknown-1:" + poison.Signatures[0][len("upstream-1:"):]}
	var frames []byte
	for i := range flood {
		unknown.Path = trusttest.PathNamed(t, fmt.Sprint("unknown-", i))
		frames = wire.Request{Kind: wire.AskOffer, Offer: unknown}.Append(frames)
	}
	src.asked.Store(0)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stream.SetDeadline(time.Now().Add(atMost(60 * time.Second)))
	go stream.Write(frames)
	answers := make([]byte, flood)
	if _, err := io.ReadFull(stream, answers); err != nil || !bytes.Equal(answers, make([]byte, flood)) {
		t.Fatalf("the flood is answered %v, or some offer is taken", err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	runtime.KeepAlive(frames)
	if looked := src.asked.Load(); looked == 0 || looked > flood*3/4 { // some misses come back meanwhile
		t.Errorf("%d of %d offers are looked at", looked, flood)
	}
	honest := (&rogue{}).start(t)
	if !offer(t, honest.dial(t, n), signed) {
		t.Error("another peer's offer is not taken")
	}
	if _, kept := book.Of(unsigned); !kept {
		t.Error("its signature is not kept")
	}
}
