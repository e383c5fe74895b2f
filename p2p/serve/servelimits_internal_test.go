package serve

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

func TestClaimsWithManyReferencesAreNotKept(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "many", p2ptest.Random(100))
	for i := range peers.MaxCheckedRefs + 1 {
		info.References = append(info.References, trusttest.PathNamed(t, fmt.Sprint("reference", i)))
	}
	info = trusttest.Sign(t, s.Secret, info)
	sh := newSharer(nil, nil, trust.Policy{Keys: s.Keys})
	if m, err := sh.check(info.Path.HashPart(), info, s.Keys); err != nil || m.SignedBy() == "" {
		t.Fatalf("check = %v, %v, want a signed mapping", m, err)
	}
	if sh.checked.Len() != 0 {
		t.Errorf("a claim with %d references is kept, want at most %d", len(info.References), peers.MaxCheckedRefs)
	}
}

func TestTurnsAreBounded(t *testing.T) {
	s := newServing(0)
	for name, k := range map[string]struct {
		turns                *turns
		perPeer, atAddr, all int
	}{
		"open streams":           {s.streams, maxPeerStreams, maxAddrStreams, maxStreams},
		"answers about claims":   {s.asking, maxServingPeer, maxServingAddr, maxServing},
		"other answers":          {s.sending, maxServingPeer, maxServingAddr, maxServing},
		"blocks that are read":   {s.reading, maxUploadsPeer, maxUploads, maxUploads},
		"questions to upstreams": {s.proxying, peers.MaxProxyingPeer, maxProxying, maxProxying},
		"files by their hash":    {s.naming, maxNamingPeer, maxNamingPeer, maxNaming},
	} {
		taken := 0
		take := func(n int, who func(i int) Asker) {
			for i := range n {
				if _, ok := k.turns.try(who(i)); ok {
					taken++
				}
			}
		}
		one := p2ptest.Addr(0)
		if take(k.perPeer+10, func(int) Asker { return Asker{one, "peer"} }); taken != k.perPeer {
			t.Errorf("%s: a peer has %d turns, want %d", name, taken, k.perPeer)
		}
		if take(k.atAddr+10, func(i int) Asker { return Asker{one, peer.ID(fmt.Sprint(i))} }); taken != k.atAddr {
			t.Errorf("%s: the peers of an address have %d turns, want %d", name, taken, k.atAddr)
		}
		if take(k.all+10, func(i int) Asker { return Asker{p2ptest.Addr(i + 1), "peer"} }); taken != k.all {
			t.Errorf("%s: all peers together have %d turns, want %d", name, taken, k.all)
		}
	}
}

func TestStuckStoreDelaysNoAnswerForLong(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "stuck", p2ptest.Random(100))
	src := deadlineSource{new(store.Mem), make(chan time.Duration, 10)}
	srv := newTestServer(t, s.Keys, src)
	if !srv.Has(t.Context(), info.Path.HashPart(), info.NarHash) && len(src.infos) == 0 {
		t.Error("Has asks no source")
	}
	for _, r := range []wire.Request{{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}, blockRequest(info, 0),
		{Kind: wire.AskHave, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash},
		{Kind: wire.AskWrong, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}} {
		w := answers{bufio.NewWriter(io.Discard), new(toldParts)}
		if err := srv.answerKind(t.Context(), newClient(srv, "asker"), w, r); err != nil {
			t.Fatalf("answer to a request of kind %d = %v", r.Kind, err)
		}
		if len(src.infos) == 0 {
			t.Fatalf("a request of kind %d asks no source", r.Kind)
		}
		for range len(src.infos) {
			if d := <-src.infos; d > shareTimeout {
				t.Errorf("for a request of kind %d a source has %v, want at most %v", r.Kind, d, shareTimeout)
			}
		}
	}
}

// A deadlineSource has nothing. It notes how long it had, at the most, for each question; an hour is no deadline.
type deadlineSource struct {
	store.Source
	infos chan time.Duration
}

func (d deadlineSource) Info(ctx context.Context, _ store.HashPart) (store.Info, error) {
	if end, ok := ctx.Deadline(); ok {
		d.infos <- time.Until(end)
	} else {
		d.infos <- time.Hour
	}
	return store.Info{}, store.ErrNotFound
}

func TestMemoriesThatPeersFillAreBounded(t *testing.T) {
	srv := newTestServer(t, trusttest.NewSigner(t).Keys)
	parts := p2ptest.HashParts(0, maxChecked+10)
	for name, m := range map[string]struct {
		limit int
		add   func(i int)
		size  func() int
	}{
		"verified signatures": {maxChecked, func(i int) { srv.checked.Add(parts[i], checkedInfo{}) }, srv.checked.Len},
		"quotas of peers": {peers.MaxTallies, func(i int) { srv.quotas.peer(peer.ID(fmt.Sprint(i)), p2ptest.Addr(0)) },
			srv.quotas.peers.Len},
	} {
		for i := range m.limit + 10 {
			m.add(i)
		}
		if got := m.size(); got != m.limit {
			t.Errorf("%s: %d are remembered, want %d", name, got, m.limit)
		}
	}
}

func TestChecksThatPeersCauseGrowBackSlowly(t *testing.T) {
	now := time.Now().Add(time.Hour) // all are full
	for shares, r := range map[int]*rate.Limiter{1: newPeerQuota().wrongTellings, missShares: newQuota(missShares).wrongTellings} {
		for r.AllowN(now, 1) {
		}
		later := now.Add(time.Duration(wrongBurst / wrongRate * 0.75 * float64(time.Second)))
		got := 0
		for ; got <= wrongBurst*shares && r.AllowN(later, 1); got++ {
		}
		if want := wrongBurst * shares * 3 / 4; got != want && got != want-1 {
			t.Errorf("%d shares: %d more are allowed after %v, want %d", shares, got, later.Sub(now), want)
		}
		if later = later.Add(1000 * time.Hour); r.TokensAt(later) != float64(wrongBurst*shares) {
			t.Errorf("%d shares: %v are allowed at once, want %d", shares, r.TokensAt(later), wrongBurst*shares)
		}
	}
}
