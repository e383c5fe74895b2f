package p2p

import (
	"bufio"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"narbor/p2p/fetch"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
)

// connFrom is a connection from an address.
type connFrom struct {
	network.Conn
	addr netip.Addr
}

func (c connFrom) RemoteMultiaddr() ma.Multiaddr {
	ip, err := manet.FromIP(c.addr.WithZone("").AsSlice())
	if err != nil {
		panic(err)
	}
	if c.addr.Zone() != "" {
		ip = ma.StringCast("/ip6zone/" + c.addr.Zone()).Encapsulate(ip)
	}
	return ip.Encapsulate(ma.StringCast("/tcp/1"))
}

// probe asks about absent paths from an address under that many identities, until each has spent its budget. It returns
// how many paths were looked up.
func (g *target) probe(addr string, identities int) (looked int) {
	g.t.Helper()
	for range identities {
		g.peer = newClient(g.Node, ghost(g.t, g.Node).ID)
		from, _ := netmon.IPOf(connFrom{addr: netip.MustParseAddr(addr)}.RemoteMultiaddr())
		g.peer.quota.machine.Store(g.server.quotas.of(from))
		for i := range missBurst/wire.MaxClaims + 1 {
			_, n := g.asks(words(i*wire.MaxClaims, wire.MaxClaims)...)
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
			g.asks(words(i*wire.MaxClaims, wire.MaxClaims)...)
		}
		if got := g.peer.tally.Strikes.Load(); got > 0 {
			t.Errorf("%d strikes, want none", got)
		}
	})
}

// receiving makes a target receive a NAR, of which nothing has come yet.
func (g *target) receiving(t testing.TB) (f *fetch.Session, info store.Info) {
	t.Helper()
	s := newSigner(t)
	info, m := s.sign(t, "coming", randomNAR(4*store.BlockSize))
	draft, err := g.cfg.Spool.Create(m.NarHash(), m.NarSize())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.server.keys.Replace([]string{s.secret.ToPublicKey().String()}); err != nil {
		t.Fatal(err)
	}
	f = fetch.New(g.fetching(), m, draft, m, true)
	end := g.fetched.begin(f)
	t.Cleanup(func() {
		end()
		draft.Discard()
	})
	return f, info
}

func TestPeerWithoutBudgetCannotTellWhatIsBeingReceived(t *testing.T) {
	g := newTarget(t)
	synctest.Test(t, func(t *testing.T) {
		f, info := g.receiving(t)
		nb := &peers.Neighbour{ID: g.peer.tally.ID, Tally: g.peer.tally, Done: make(chan struct{})}
		g.mu.Lock()
		g.peers[nb.ID] = nb
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			delete(g.peers, nb.ID)
			g.mu.Unlock()
		}()
		block := func() (took time.Duration) {
			start := time.Now()
			w := answers{bufio.NewWriter(io.Discard), new(toldParts)}
			if err := g.server.answer(t.Context(), g.peer, w, blockRequest(info, 1)); err != nil {
				t.Fatalf("answer = %v", err)
			}
			return time.Since(start)
		}
		if took := block(); took != fetch.PartialWait {
			t.Errorf("a peer with a budget waits %s for a block that may come, want %s", took, fetch.PartialWait)
		}
		for g.server.mayLook(g.peer, info.Path.HashPart(), 0) {
		}
		if took := block(); took != 0 {
			t.Errorf("a peer without a budget is answered after %s, want as about what is not here", took)
		}
		g.asks(info.Path.HashPart())
		if f.IsPartial(nb) {
			t.Error("a peer without a budget is asked for blocks of what is being received")
		}
		time.Sleep(2 * time.Minute)
		g.asks(info.Path.HashPart())
		if !f.IsPartial(nb) {
			t.Error("a peer with a budget is not a member of the swarm")
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
			g.asks(words(i%some*wire.MaxClaims, wire.MaxClaims)...)
		}
		if got := g.peer.tally.Strikes.Load(); got > 0 {
			t.Errorf("%d strikes for questions about %d paths, want none", got, some*wire.MaxClaims)
		}
		for i := range missPatience/wire.MaxClaims + 2 {
			g.asks(words((some+i)*wire.MaxClaims, wire.MaxClaims)...)
		}
		if got := g.peer.tally.Strikes.Load(); got != 1 {
			t.Errorf("%d strikes for questions about many paths, want 1", got)
		}
	})
}
