package discovery

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/store/storetest"
)

// silence is how long a pulled cable goes unnoticed at most.
const silence = 7 * time.Second

// The slowest test comes first, so that the others run beside it.
func TestPulledCableIsNoticed(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("10.77.0.1/24").start(childConfig{})
	host := n.up("10.77.0.2/24")
	b := host.start(childConfig{})
	mover := n.up("10.77.0.3/24")
	c := mover.start(childConfig{})
	a.wait("up "+b.id, time.Minute)
	b.wait("up "+c.id, time.Minute)
	host.pull()
	_, took := a.wait("down "+b.id, silence+time.Second)
	t.Logf("noticed after %v", took)
	b.wait("down "+a.id, silence) // each side looks at times of its own

	// a and c have been connected for longer than it takes for an old connection to give way.
	mover.ip("addr", "del", "10.77.0.3/24", "dev", "eth0")
	mover.addAddr("10.77.0.33/24")
	_, took = a.wait("dropped "+c.id, time.Minute)
	t.Logf("the old connection of a machine that moved was closed after %v", took)

	host.plug()
	_, took = a.wait("up "+b.id, time.Minute)
	t.Logf("connected again after %v", took)
}

func TestHostsFindEachOther(t *testing.T) {
	for _, family := range []struct{ name, a, b, c string }{
		{"IPv4", "10.77.0.1/24", "10.77.0.2/24", "10.77.0.3/24"},
		{"IPv6", "fd77::1/64", "fd77::2/64", "fd77::3/64"},
		{"IPv4 link-local", "169.254.7.1/16", "169.254.7.2/16", "169.254.7.3/16"},
		{"IPv6 link-local", "fe80::7:1/64", "fe80::7:2/64", "fe80::7:3/64"},
	} {
		t.Run(family.name, func(t *testing.T) {
			t.Parallel()
			n := newTestNet(t)
			a := n.up(family.a).start(childConfig{})
			b := n.up(family.b).start(childConfig{})
			_, took := a.wait("up "+b.id, time.Minute)
			b.wait("up "+a.id, time.Minute)
			t.Logf("two hosts: %v", took)

			c := n.up(family.c).start(childConfig{})
			_, took = a.wait("up "+c.id, time.Minute)
			b.wait("up "+c.id, time.Minute)
			t.Logf("late-comer: %v", took)
		})
	}
}

func TestStartedBeforeTheLinkIsUp(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("10.77.0.1/24").start(childConfig{})
	host := n.host()
	b := host.start(childConfig{})
	b.wait("settled ", time.Minute)
	host.ip("link", "set", "eth0", "up")
	host.addAddr("10.77.0.2/24")
	_, took := a.wait("up "+b.id, time.Minute)
	t.Logf("after the link came up: %v", took)
}

func TestAddressChangeIsFollowed(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("10.77.0.1/24").start(childConfig{})
	host := n.up("10.77.0.2/24")
	b := host.start(childConfig{})
	a.wait("up "+b.id, time.Minute)
	b.wait("up "+a.id, time.Minute)
	host.ip("addr", "del", "10.77.0.2/24", "dev", "eth0")
	host.addAddr("10.77.0.77/24")
	_, took := b.wait("up "+a.id, time.Minute)
	t.Logf("connected again after %v", took)

	for range 20 { // an indecisive network
		host.ip("addr", "del", "10.77.0.77/24", "dev", "eth0")
		host.ip("link", "set", "eth0", "down")
		host.ip("link", "set", "eth0", "up")
		host.addAddr("10.77.0.78/24")
		host.ip("addr", "del", "10.77.0.78/24", "dev", "eth0")
		host.addAddr("10.77.0.77/24")
	}

	// Someone new must be told the new address alone, by an announcement.
	c := n.up("10.77.0.3/24").start(childConfig{})
	addr, took := c.wait("up "+b.id, time.Minute)
	t.Logf("a new host is connected after %v", took)
	if want := regexp.MustCompile(`^ /ip4/10\.77\.0\.77/`); !want.MatchString(addr) {
		t.Errorf("the new host is connected to %q, want %v", addr, want)
	}
}

func TestForgedAnnouncementsAreNotDialled(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	liar := n.up("10.77.0.9/24")
	host := n.up("10.77.0.1/24", "169.254.7.1/16")
	host.ip("route", "add", "default", "via", "10.77.0.9") // so that far addresses are not refused by the kernel
	host.exec("", "nft", "add table inet t; add chain inet t out { type filter hook output priority 0; }; "+
		"add rule inet t out tcp dport 6666 counter; add rule inet t out tcp dport 7777 counter; add rule inet t out tcp dport 666 counter")
	var texts []string
	for _, addr := range []string{
		"/ip4/8.8.8.8/tcp/6666", "/ip4/10.78.0.1/tcp/6666", "/ip4/127.0.0.1/tcp/6666", "/ip6/::1/tcp/6666",
		"/ip4/169.254.169.254/tcp/6666", "/ip4/10.77.0.1/tcp/6666", "/ip4/10.77.0.9/tcp/666", "/ip4/0.0.0.0/tcp/6666",
		"/dns4/localhost/tcp/6666",
		"/ip4/10.77.0.9/tcp/7777", // on our link: this one may be dialled
	} {
		texts = append(texts, "dnsaddr="+addr+"/p2p/"+p2ptest.NewPeer(t).String())
	}
	liar.start(childConfig{Forge: texts})
	a := host.start(childConfig{})
	a.wait("settled ", settleLimit+10*time.Second)
	got := make(map[string]int)
	// After the third time, every address that it knows has been tried.
	for limit := time.Now().Add(storetest.AtMost(20 * time.Second)); got["7777"] < 3; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			break
		}
		counters := regexp.MustCompile(`tcp dport (\d+) counter packets (\d+)`).
			FindAllStringSubmatch(host.exec("", "nft", "list", "table", "inet", "t"), -1)
		for _, c := range counters {
			got[c[1]], _ = strconv.Atoi(c[2])
		}
	}
	if got["7777"] == 0 {
		t.Error("the address on our link was not dialled: the test proves nothing")
	}
	if got["666"] != 0 {
		t.Errorf("%d packets went to a port that narbor cannot have", got["666"])
	}
	if got["6666"] != 0 {
		t.Errorf("%d packets went to addresses that are not a neighbour's", got["6666"])
	}
}

func TestHostsWithDHCPv6AddressesFindEachOther(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	hosts := [2]*testChild{}
	for i, addr := range []string{"fd77::1/128", "fd77::2/128"} {
		h := n.up(addr)
		h.ip("route", "add", "fd77::/64", "dev", "eth0", "proto", "ra")
		hosts[i] = h.start(childConfig{})
	}
	hosts[0].wait("up "+hosts[1].id, time.Minute)
}

// TestPeersOfAnotherNetworkAreNotAccepted gives the hosts no IPv6: by their link-local addresses they would be
// neighbours.
func TestPeersOfAnotherNetworkAreNotAccepted(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	host := n.upIPv4("10.77.0.1/24")
	host.ip("route", "add", "10.88.0.0/24", "dev", "eth0") // it can be reached from there, but that is not its network
	a := host.start(childConfig{Port: 6273})
	far := n.upIPv4("10.88.0.2/24")
	far.ip("route", "add", "10.77.0.0/24", "dev", "eth0")
	b := far.start(childConfig{Peers: []string{"10.77.0.1"}})
	b.wait("settled ", settleLimit+10*time.Second) // it has tried

	c := n.upIPv4("10.77.0.3/24").start(childConfig{Peers: []string{"10.77.0.1"}})
	for {
		who, _ := a.wait("up ", time.Minute)
		if strings.HasPrefix(who, b.id) {
			t.Fatalf("connected to a machine of another network: %s", who)
		}
		if strings.HasPrefix(who, c.id) {
			return
		}
	}
}

func TestDeniedInterfaceIsNotUsed(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("10.77.0.1/24").start(childConfig{})
	b := n.up("10.77.0.2/24").start(childConfig{Deny: []string{"eth*"}})
	c := n.up("10.77.0.3/24").start(childConfig{})
	c.wait("settled ", settleLimit+10*time.Second)
	for {
		who, _ := a.wait("up ", time.Minute)
		if strings.HasPrefix(who, b.id) {
			t.Fatal("connected over an interface that was denied")
		}
		if strings.HasPrefix(who, c.id) {
			return
		}
	}
}
