package discovery

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/store/storetest"
)

// Only this machine knows on which of its links it has heard a link-local address.
func TestLinkLocalAddressesFromHearsayAreRefused(t *testing.T) {
	k := newTestCandidates(t)
	id, now := p2ptest.NewPeer(t), time.Now()
	local, global := ma.StringCast("/ip6zone/eth0/ip6/fe80::1/tcp/6273"), ma.StringCast("/ip6/fd00::1/tcp/6273")
	for _, via := range []string{ViaExchange, viaRemembered, viaInbound} {
		k.announce(announcement{id: id, addrs: []ma.Multiaddr{local}, expiry: now.Add(time.Hour), via: via}, now)
		if k.peers[id] != nil {
			t.Fatalf("taken from %q", via)
		}
	}
	for _, via := range []string{viaMDNS, viaGateway} {
		delete(k.peers, id)
		k.announce(announcement{id: id, addrs: []ma.Multiaddr{local, global}, expiry: now.Add(time.Hour), via: via}, now)
		if c := k.peers[id]; c == nil || len(c.addrs) != 2 {
			t.Errorf("what is known from the link by %q = %+v, want both addresses", via, c)
		}
	}
}

// second gives a machine another interface, eth1, in another network.
func (h *testHost) second(n *testNet) {
	n.t.Helper()
	n.ip("-n", n.name, "link", "add", "x"+h.port, "type", "veth", "peer", "name", "eth1", "netns", h.name)
	n.ip("-n", n.name, "link", "set", "x"+h.port, "master", "br0", "up")
	h.ip("link", "set", "eth1", "up")
}

// A machine in two networks in which there is nothing but link-local addresses finds all others where they are.
func TestLinkLocalAddressesAreDialledWhereTheyWereHeard(t *testing.T) {
	t.Parallel()
	x, y := newTestNet(t), newTestNet(t)
	middle, left, right := x.up(), x.up(), y.up()
	middle.second(y)
	m := middle.start(childConfig{})
	b, c := left.start(childConfig{}), right.start(childConfig{})
	at := make(map[string]string)
	for len(at) < 2 {
		e, took := m.wait("up ", time.Minute)
		id, addr, _ := strings.Cut(e, " ")
		at[id] = addr
		t.Logf("after %v: %s", took, addr)
	}
	if !strings.HasPrefix(at[b.id], "/ip6zone/eth0/ip6/fe80:") || !strings.HasPrefix(at[c.id], "/ip6zone/eth1/ip6/fe80:") {
		t.Errorf("connected to %q and %q, want the one by eth0 and the other by eth1", at[b.id], at[c.id])
	}
	if n := len(m.events); n > 2 {
		t.Logf("%d more events", n)
	}
}

// An announcement of another machine's link-local address is not believed, and the address is not looked for on another
// Link.
func TestForgedLinkLocalAnnouncementsAreNotDialled(t *testing.T) {
	t.Parallel()
	x, y := newTestNet(t), newTestNet(t)
	liar, host, victim := x.up("fe80::7:9/64"), x.up("fe80::7:1/64", "fd77::1/64"), y.up("fe80::7:5/64")
	host.second(y)
	host.ip("addr", "add", "fe80::8:1/64", "dev", "eth1", "nodad") // so that another address is listened at from the start
	host.exec("", "nft", "add table inet t; add chain inet t out { type filter hook output priority 0; }; "+
		"add rule inet t out tcp dport 6666 counter; add rule inet t out tcp dport 7777 counter; "+
		"add rule inet t out oifname eth1 tcp dport 7777 counter comment elsewhere")
	_ = victim
	var texts []string
	for _, addr := range []string{
		"/ip6/fe80::7:5/tcp/6666", "/ip6/fe80::7:6/tcp/6666", "/ip6zone/eth1/ip6/fe80::7:5/tcp/6666",
		"/ip6zone/eth0/ip6/fe80::7:9/tcp/6666",
		"/ip6/100::2:0:0:7:9/tcp/6666", "/ip6/fe80::7:1/tcp/6666",
		"/ip6/fe80::7:9/tcp/7777", // its own: this one may be dialled
	} {
		texts = append(texts, "dnsaddr="+addr+"/p2p/"+p2ptest.NewPeer(t).String())
	}
	// The kernel sends from the address that it likes best: there must be but one.
	liar.ip("link", "set", "eth0", "addrgenmode", "none")
	liar.ip("addr", "flush", "dev", "eth0")
	liar.addAddr("fe80::7:9/64")
	liar.start(childConfig{Forge: texts})
	a := host.start(childConfig{})
	a.wait("settled ", settleLimit+10*time.Second)
	read := func() map[string]int {
		got := make(map[string]int)
		out := host.exec("", "nft", "list", "table", "inet", "t")
		for _, c := range regexp.MustCompile(`tcp dport (\d+) counter packets (\d+).*?( comment "elsewhere")?\n`).FindAllStringSubmatch(out,
			-1) {
			got[c[1]+c[3]], _ = strconv.Atoi(c[2])
		}
		return got
	}
	got := read()
	// After the third time, every address that it knows has been tried.
	for limit := time.Now().Add(storetest.AtMost(20 * time.Second)); got["7777"] < 3 && time.Now().Before(limit); got = read() {
		time.Sleep(50 * time.Millisecond)
	}
	if got["7777"] == 0 {
		t.Error("the address from which the announcements came was not dialled: the test proves nothing")
	}
	if got["6666"] != 0 {
		t.Errorf("%d packets went to addresses from which no announcement came", got["6666"])
	}
	if got[`7777 comment "elsewhere"`] != 0 {
		t.Errorf("%d packets went to the other link", got[`7777 comment "elsewhere"`])
	}
}

func TestNamedLinkLocalPeerIsReached(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("fe80::7:1/64").start(childConfig{Port: 6273})
	b := n.up("fe80::7:2/64").start(childConfig{Deny: []string{"eth0"}, Peers: []string{"fe80::7:1%eth0"}})
	addr, took := b.wait("up "+a.id, time.Minute)
	t.Logf("after %v", took)
	if want := "/ip6zone/eth0/ip6/fe80::7:1/tcp/6273"; strings.TrimSpace(addr) != want {
		t.Errorf("connected to %q, want %q", addr, want)
	}
}

func TestLinkLocalAddressesComeLast(t *testing.T) {
	a := netip.MustParseAddr("fe80::1%eth0")
	m, err := netmon.TCPAddr(a, 6273)
	if err != nil {
		t.Fatal(err)
	}
	other := ma.StringCast("/ip6/fd00::1/tcp/6273")
	first, last := netmon.ByReach([]ma.Multiaddr{m, other})
	if len(first) != 1 || !first[0].Equal(other) || len(last) != 1 || !last[0].Equal(m) {
		t.Errorf("byReach = %v, %v", first, last)
	}
}
