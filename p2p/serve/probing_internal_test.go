package serve

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

// A watched source counts how often it is asked.
type watched struct {
	store.Source
	infos, nars atomic.Int64
}

func (w *watched) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	w.infos.Add(1)
	return w.Source.Info(ctx, hp)
}

func (w *watched) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	w.nars.Add(1)
	return w.Source.NAR(ctx, info)
}

// A target is a server of one path, and a peer that asks it without a connection, so that time may be simulated.
type target struct {
	*Server
	t    testing.TB
	src  *watched
	info store.Info
	peer Client

	identities int // of probe
}

func newTarget(t testing.TB) *target {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(2000)
	info, _ := s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	src := &watched{Source: mem}
	srv := newTestServer(t, s.Keys, src)
	return &target{Server: srv, t: t, src: src, info: info, peer: newClient(srv, "asker")}
}

// newClient returns a peer that has no connection, and no machine with which it shares a quota.
func newClient(srv *Server, id peer.ID) Client {
	return Client{connFrom{addr: netip.MustParseAddr("127.0.0.1"), id: id}, srv.cfg.Ledger.TallyOf(id), newPeerQuota()}
}

// asks sends one request, and returns how many claims came and how many hash parts were looked up.
func (g *target) asks(hps ...store.HashPart) (claims, looked int) {
	g.t.Helper()
	before := g.src.infos.Load()
	var out bytes.Buffer
	bw := bufio.NewWriter(&out)
	if err := g.answerClaims(g.t.Context(), g.peer, answers{bw, new(toldParts)},
		wire.Request{Kind: wire.AskClaims, HashParts: hps}); err != nil {
		g.t.Fatalf("answerClaims = %v", err)
	}
	bw.Flush()
	br := bufio.NewReader(&out)
	for range hps {
		text, _, err := wire.ReadClaim(br)
		if err != nil {
			g.t.Fatalf("readClaim = %v", err)
		}
		if text != "" {
			claims++
		}
	}
	if err := wire.ReadFurther(br, func(hp store.HashPart, _ string) { g.t.Errorf("%s was told, too", hp) }); err != nil {
		g.t.Fatalf("readFurther = %v", err)
	}
	if n, _ := io.Copy(io.Discard, br); n > 0 {
		g.t.Errorf("%d bytes follow the answer", n)
	}
	return claims, int(g.src.infos.Load() - before)
}

// Many questions are looked up at once, and the one that is too many is held against a peer once.
func TestPatienceEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(4, 1)
		var ended atomic.Int64
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if !b.spend() {
					ended.Add(1)
				}
			})
		}
		all.Wait()
		if n := ended.Load(); n != 200 {
			t.Errorf("of 1000 questions %d were one too many, want each fifth", n)
		}
	})
}

func TestDictionaryYieldsItsBudgetAndThenNothing(t *testing.T) {
	g := newTarget(t)
	here := g.info.Path.HashPart()
	synctest.Test(t, func(t *testing.T) {
		const rounds = 10 // a minute
		next, struck := 0, 0
		for minute := range 12 {
			looked := 0
			for range rounds {
				_, n := g.asks(p2ptest.HashParts(next, wire.MaxClaims)...)
				looked += n
				next += wire.MaxClaims
				time.Sleep(time.Minute / rounds)
			}
			want := missesPerMinute
			if minute == 0 {
				want += missBurst
			}
			t.Logf("minute %d: %d of %d looked up, %d strikes", minute, looked, rounds*wire.MaxClaims, g.peer.tally.Strikes.Load())
			if looked > want {
				t.Errorf("minute %d: %d were looked up, want at most %d", minute, looked, want)
			}
			if struck = int(g.peer.tally.Strikes.Load()); struck > 0 && minute < 5 {
				t.Errorf("a strike after %d minutes", minute)
			}
		}
		if struck != 1 {
			t.Errorf("%d strikes for a dictionary of %d, want 1", struck, next)
		}
		g.asks(p2ptest.HashParts(next, wire.MaxClaims)...)
		// Paths that are here are answered like those that are not, and not even looked up.
		if claims, looked := g.asks(here); claims != 0 || looked != 0 {
			t.Errorf("after the budget: %d claims, %d looked up, want none", claims, looked)
		}
		time.Sleep(time.Minute)
		if claims, looked := g.asks(here); claims != 1 || looked != 1 {
			t.Errorf("a minute later: %d claims, %d looked up, want 1", claims, looked)
		}
	})
}

func TestHonestBuilderIsAnswered(t *testing.T) {
	g := newTarget(t)
	here := g.info.Path.HashPart()
	synctest.Test(t, func(t *testing.T) {
		for i := range 5000 { // each after what it has found, all within a second
			if claims, looked := g.asks(p2ptest.HashParts(i, 1)[0], here); claims != 1 || looked != 2 {
				t.Fatalf("path %d: %d claims, %d looked up, want 1 and 2", i, claims, looked)
			}
		}
		for range 50 { // a large evaluation, every day for weeks
			time.Sleep(24 * time.Hour)
			for i := range 60 {
				g.asks(p2ptest.HashParts(i*wire.MaxClaims, wire.MaxClaims)...)
				if bans := g.cfg.Ledger.Bans(); g.peer.tally.Strikes.Load() > 0 || len(bans) > 0 {
					t.Fatalf("struck after %d questions: %v", (i+1)*wire.MaxClaims, bans)
				}
			}
		}
		for range 20 { // questions about paths that are here cost nothing, as long as a miss is left
			time.Sleep(time.Second)
			for range 1000 {
				if claims, _ := g.asks(here); claims != 1 {
					t.Fatal("what is here was not found")
				}
			}
		}
	})
	if got := g.peer.tally.Strikes.Load(); got != 0 {
		t.Errorf("it has %d strikes, want none", got)
	}
}

func TestBlocksCannotBeProbedEither(t *testing.T) {
	g := newTarget(t)
	synctest.Test(t, func(t *testing.T) {
		ask := func(kind wire.Kind, hp store.HashPart) []byte {
			var out bytes.Buffer
			bw := bufio.NewWriter(&out)
			r := wire.Request{Kind: kind, HashParts: []store.HashPart{hp}, NAR: g.info.NarHash}
			if err := g.answer(t.Context(), g.peer, answers{bw, new(toldParts)}, r); err != nil {
				t.Fatalf("answer = %v", err)
			}
			bw.Flush()
			return out.Bytes()
		}
		for i := range 20 {
			g.asks(p2ptest.HashParts(i*1000, 1000)...)
		}
		if got := ask(wire.AskBlock, g.info.Path.HashPart()); len(got) < 2000 {
			t.Fatalf("what was promised is answered by %x once the claims are spent, want the block", got)
		}
		for _, kind := range []wire.Kind{wire.AskBlock, wire.AskManifest} {
			before := g.src.infos.Load()
			for i := range 3000 {
				if got := ask(kind, p2ptest.HashParts(i, 1)[0]); !bytes.Equal(got, []byte{0}) {
					t.Fatalf("answer about what is not here = %x, want 00", got)
				}
			}
			if looked := g.src.infos.Load() - before; looked > narMisses {
				t.Errorf("kind %d: %d were looked up, want at most %d", kind, looked, narMisses)
			}
			if got := ask(kind, g.info.Path.HashPart()); !bytes.Equal(got, []byte{0}) {
				t.Errorf("kind %d: what is here is answered by %d bytes, want as what is not", kind, len(got))
			}
			time.Sleep(time.Minute)
			if got := ask(kind, g.info.Path.HashPart()); len(got) < 32 {
				t.Errorf("kind %d: a minute later %x, want an answer", kind, got)
			}
		}
	})
}

func TestNewIdentitiesDoNotRenewTheBudgetForever(t *testing.T) {
	g := newTarget(t)
	looked, asked := 0, 0
	start := time.Now()
	for i := range 3 * missShares {
		g.peer = g.ClientOn(connFrom{addr: netip.MustParseAddr("127.0.0.1"), id: peer.ID(fmt.Sprint(i))})
		for range 9 {
			if claims, _ := g.asks(p2ptest.HashParts(asked, wire.MaxClaims)...); claims > 0 {
				t.Fatalf("%d claims about what is not here", claims)
			}
			asked += wire.MaxClaims
		}
	}
	looked = int(g.src.infos.Load())
	most := missShares * (missBurst + int((time.Since(start).Minutes()+1)*missesPerMinute))
	t.Logf("%d of %d looked up", looked, asked)
	if looked > most {
		t.Errorf("%d identities of one address had %d of %d looked up, want at most %d", 3*missShares, looked, asked, most)
	}
}

func TestBrokenStoreIsNotThePeersFault(t *testing.T) {
	g := newTarget(t)
	g.src.Source = broken{}
	for i := range 20 {
		if _, looked := g.asks(p2ptest.HashParts(i*1000, 1000)...); looked != 1000 {
			t.Fatalf("%d of 1000 were looked up, want all", looked)
		}
	}
}

type broken struct{ store.Source }

func (broken) Info(context.Context, store.HashPart) (store.Info, error) {
	return store.Info{}, fmt.Errorf("the Nix daemon is gone")
}

func TestNothingIsSpentWhileNothingIsShared(t *testing.T) {
	g := newTarget(t)
	here := g.info.Path.HashPart()
	g.Share(false)
	for i := range 20 {
		var out bytes.Buffer
		w := answers{bufio.NewWriter(&out), new(toldParts)}
		if err := g.answer(t.Context(), g.peer, w,
			wire.Request{Kind: wire.AskClaims, HashParts: p2ptest.HashParts(i*1000, 1000)}); err != nil {
			t.Fatal(err)
		}
	}
	g.Share(true)
	if claims, _ := g.asks(here); claims != 1 {
		t.Error("questions asked while nothing was shared have spent what the peer may ask now")
	}
}

func TestQuestionsToUpstreamsHaveAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		there := newQuota(missShares)
		got := 0
		for range missShares + 2 {
			p := newPeerQuota()
			p.machine.Store(there)
			own := 0
			for p.spendProxied() {
				own++
			}
			if own > proxyBurst {
				t.Fatalf("one peer asks %d questions, want at most %d", own, proxyBurst)
			}
			got += own
		}
		if got != missShares*proxyBurst {
			t.Errorf("%d peers at one address ask %d questions, want %d", missShares+2, got, missShares*proxyBurst)
		}
		time.Sleep(time.Minute)
		p := newPeerQuota()
		p.machine.Store(there)
		if !p.spendProxied() {
			t.Error("a minute later there is none again")
		}
	})
}
