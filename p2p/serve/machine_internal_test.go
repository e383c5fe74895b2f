package serve

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

// probe asks about absent paths from an address under that many identities, until each has spent its budget. It returns
// how many paths were looked up.
func (g *target) probe(addr string, identities int) (looked int) {
	g.t.Helper()
	for range identities {
		g.identities++
		g.peer = newClient(g.Server, peer.ID(fmt.Sprint("identity ", g.identities)))
		from, _ := netmon.IPOf(connFrom{addr: netip.MustParseAddr(addr)}.RemoteMultiaddr())
		g.peer.quota.machine.Store(g.quotas.of(from))
		for i := range missBurst/wire.MaxClaims + 1 {
			_, n := g.asks(p2ptest.HashParts(i*wire.MaxClaims, wire.MaxClaims)...)
			looked += n
		}
	}
	return looked
}

func TestAddressesAreOfOneMachine(t *testing.T) {
	for _, c := range []struct {
		name       string
		a, b       string
		macA, macB string
		guests     bool
		same       bool
	}{
		{"IPv4 addresses", "10.0.0.1", "10.0.0.2", "", "", false, false},
		{"addresses of an IPv6 network", "2001:db8::1", "2001:db8::2", "", "", false, true},
		{"addresses of two IPv6 networks", "2001:db8::1", "2001:db8:0:1::1", "", "", false, false},
		{"guests", "2001:db8::1", "2001:db8::2", "", "", true, false},
		{"addresses of one interface", "10.0.0.1", "2001:db8::1", "02:00:00:00:00:01", "02:00:00:00:00:01", false, true},
		{"addresses of two interfaces", "2001:db8::1", "2001:db8::2", "02:00:00:00:00:01", "02:00:00:00:00:02", false, false},
	} {
		a := machineOf(netip.MustParseAddr(c.a), c.macA, c.guests)
		b := machineOf(netip.MustParseAddr(c.b), c.macB, c.guests)
		if (a == b) != c.same {
			t.Errorf("%s: %v and %v, want one machine: %v", c.name, a, b, c.same)
		}
	}
}

func TestManyMachinesLeaveHalfOfTheMissesToTheNext(t *testing.T) {
	g := newTarget(t)
	synctest.Test(t, func(t *testing.T) {
		all := 0
		for i := range 3 * missMachines {
			looked := g.probe(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), missShares)
			if all += looked; looked == 0 {
				t.Errorf("machine %d may ask nothing any more, want half of what is left", i)
			}
		}
		t.Logf("%d machines had %d looked up", 3*missMachines, all)
		if most := missMachines * missShares * missBurst; all > most {
			t.Errorf("%d machines had %d looked up, want at most %d", 3*missMachines, all, most)
		}
		if looked := g.probe("192.0.2.0", missShares); looked > 0 {
			t.Errorf("the first machine had %d more looked up, want none", looked)
		}
		if got := g.peer.tally.Strikes.Load(); got > 0 {
			t.Errorf("%d strikes for less than the patience, want none", got)
		}
		time.Sleep(time.Minute)
		if looked := g.probe("192.0.2.101", 1); looked < missesPerMinute {
			t.Errorf("a minute later a new machine has %d looked up, want at least %d", looked, missesPerMinute)
		}
	})
}

func TestPeerIsNotStruckForWhatOthersHaveSpent(t *testing.T) {
	g := newTarget(t)
	synctest.Test(t, func(t *testing.T) {
		for i := range 8 * missMachines { // until less than a question is left
			g.probe(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), missShares)
		}
		if looked := g.probe("192.0.2.200", 1); looked > 0 {
			t.Fatalf("%d looked up, want none: the others have spent all", looked)
		}
		for i := range missPatience/wire.MaxClaims + 2 {
			g.asks(p2ptest.HashParts(i*wire.MaxClaims, wire.MaxClaims)...)
		}
		if got := g.peer.tally.Strikes.Load(); got > 0 {
			t.Errorf("%d strikes, want none", got)
		}
	})
}

func TestPeerWithoutBudgetCannotTellWhatIsBeingReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := trusttest.NewSigner(t)
		info, m := s.Sign(t, "coming", p2ptest.Random(4*store.BlockSize))
		srv := newTestServer(t, s.Keys)
		srv.arriving.(*arrivals).m = m
		met := 0
		srv.cfg.Meet = func(peer.ID, store.HashPart) { met++ }
		c := newClient(srv, "asker")
		ask := func(r wire.Request) (took time.Duration) {
			start := time.Now()
			w := answers{bufio.NewWriter(io.Discard), new(toldParts)}
			if err := srv.answer(t.Context(), c, w, r); err != nil {
				t.Fatalf("answer = %v", err)
			}
			return time.Since(start)
		}
		claims := wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}
		if took := ask(blockRequest(info, 1)); took != arrivalWait {
			t.Errorf("a peer with a budget waits %s for a block that may come, want %s", took, arrivalWait)
		}
		for srv.spendMiss(c, info.Path.HashPart(), 0) {
		}
		if took := ask(blockRequest(info, 1)); took != 0 {
			t.Errorf("a peer without a budget is answered after %s, want as about what is not here", took)
		}
		if ask(claims); met > 0 {
			t.Error("a peer without a budget is asked for blocks of what is being received")
		}
		time.Sleep(2 * time.Minute)
		if ask(claims); met != 1 {
			t.Errorf("a peer with a budget has become a member of the swarm %d times, want 1", met)
		}
	})
}

// TestRepeatedQuestionsCountOnce lets a peer without a budget ask about few paths, again and again.
func TestRepeatedQuestionsCountOnce(t *testing.T) {
	g := newTarget(t)
	synctest.Test(t, func(t *testing.T) {
		g.probe("192.0.2.1", 1)
		some := missBurst / wire.MaxClaims
		for i := range 2 * missPatience / wire.MaxClaims {
			g.asks(p2ptest.HashParts(i%some*wire.MaxClaims, wire.MaxClaims)...)
		}
		if got := g.peer.tally.Strikes.Load(); got > 0 {
			t.Errorf("%d strikes for questions about %d paths, want none", got, some*wire.MaxClaims)
		}
		for i := range missPatience/wire.MaxClaims + 2 {
			g.asks(p2ptest.HashParts((some+i)*wire.MaxClaims, wire.MaxClaims)...)
		}
		if got := g.peer.tally.Strikes.Load(); got != 1 {
			t.Errorf("%d strikes for questions about many paths, want 1", got)
		}
	})
}
