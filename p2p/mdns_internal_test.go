package p2p

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestHostsFindEachOther(t *testing.T) {
	for _, family := range []struct{ name, a, b, c string }{
		{"IPv4", "10.77.0.1/24", "10.77.0.2/24", "10.77.0.3/24"},
		{"IPv6", "fd77::1/64", "fd77::2/64", "fd77::3/64"},
		{"IPv4 link-local", "169.254.7.1/16", "169.254.7.2/16", "169.254.7.3/16"},
	} {
		t.Run(family.name, func(t *testing.T) {
			t.Parallel()
			n := newTestNet(t)
			a := n.up(family.a).start(childConfig{})
			b := n.up(family.b).start(childConfig{})
			_, took := a.wait("up "+b.id, 5*time.Second)
			b.wait("up "+a.id, time.Second)
			t.Logf("two hosts: %v", took)
			settled, _ := b.wait("settled ", settleLimit+time.Second)
			t.Logf("settled after %s", settled)

			c := n.up(family.c).start(childConfig{})
			_, took = a.wait("up "+c.id, time.Second)
			b.wait("up "+c.id, time.Second)
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
	b.wait("settled ", time.Second)
	host.ip("link", "set", "eth0", "up")
	host.addAddr("10.77.0.2/24")
	_, took := a.wait("up "+b.id, 3*time.Second)
	t.Logf("after the link came up: %v", took)
}

func TestAddressChangeIsFollowed(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("10.77.0.1/24").start(childConfig{})
	host := n.up("10.77.0.2/24")
	b := host.start(childConfig{})
	a.wait("up "+b.id, 5*time.Second)
	b.wait("up "+a.id, 5*time.Second)
	host.ip("addr", "del", "10.77.0.2/24", "dev", "eth0")
	host.addAddr("10.77.0.77/24")
	_, took := b.wait("up "+a.id, 5*time.Second)
	t.Logf("connected again after %v", took)

	// Someone new must be told the new address alone, by an announcement.
	c := n.up("10.77.0.3/24").start(childConfig{})
	addr, _ := c.wait("up "+b.id, 5*time.Second)
	if want := regexp.MustCompile(`^ /ip4/10\.77\.0\.77/`); !want.MatchString(addr) {
		t.Errorf("the new host is connected to %q, want %v", addr, want)
	}
}

func TestPulledCableIsNoticed(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	a := n.up("10.77.0.1/24").start(childConfig{})
	host := n.up("10.77.0.2/24")
	b := host.start(childConfig{})
	a.wait("up "+b.id, 5*time.Second)
	host.pull()
	_, took := a.wait("down "+b.id, keepAlive+writeTimeout+time.Second)
	t.Logf("noticed after %v", took)
	b.wait("down "+a.id, time.Second)
	host.plug()
	_, took = a.wait("up "+b.id, 10*time.Second)
	t.Logf("connected again after %v", took)
}

func TestForgedAnnouncementsAreNotDialled(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	liar := n.up("10.77.0.9/24")
	host := n.up("10.77.0.1/24", "169.254.7.1/16")
	host.ip("route", "add", "default", "via", "10.77.0.9") // so that far addresses are not refused by the kernel
	host.exec("", "nft", "add table inet t; add chain inet t out { type filter hook output priority 0; }; "+
		"add rule inet t out tcp dport 6666 counter; add rule inet t out tcp dport 7777 counter")
	var texts []string
	for _, addr := range []string{
		"/ip4/8.8.8.8/tcp/6666", "/ip4/10.78.0.1/tcp/6666", "/ip4/127.0.0.1/tcp/6666", "/ip6/::1/tcp/6666",
		"/ip4/169.254.169.254/tcp/6666", "/ip4/10.77.0.1/tcp/6666", "/ip4/0.0.0.0/tcp/6666", "/dns4/localhost/tcp/6666",
		"/ip4/10.77.0.9/tcp/7777", // on our link: this one may be dialled
	} {
		texts = append(texts, mdnsText+addr+"/p2p/"+newTestPeer(t).String())
	}
	liar.start(childConfig{Forge: texts})
	a := host.start(childConfig{})
	a.wait("settled ", settleLimit+time.Second)
	counters := regexp.MustCompile(`tcp dport (\d+) counter packets (\d+)`).
		FindAllStringSubmatch(host.exec("", "nft", "list", "table", "inet", "t"), -1)
	got := make(map[string]int)
	for _, c := range counters {
		got[c[1]], _ = strconv.Atoi(c[2])
	}
	if got["7777"] == 0 {
		t.Error("the address on our link was not dialled: the test proves nothing")
	}
	if got["6666"] != 0 {
		t.Errorf("%d packets went to addresses that are not a neighbour's", got["6666"])
	}
}

func newTestPeer(t *testing.T) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(newTestIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestParseText(t *testing.T) {
	id := newTestPeer(t)
	for text, want := range map[string]string{
		"dnsaddr=/ip4/10.0.0.1/tcp/6273/p2p/%s":                    "/ip4/10.0.0.1/tcp/6273",
		"dnsaddr=/ip6/fd00::1/tcp/1/p2p/%s":                        "/ip6/fd00::1/tcp/1",
		"/ip4/10.0.0.1/tcp/6273/p2p/%s":                            "",
		"dnsaddr=/ip4/10.0.0.1/tcp/6273":                           "",
		"dnsaddr=/ip4/10.0.0.1/udp/6273/p2p/%s":                    "",
		"dnsaddr=/ip4/10.0.0.1/udp/6273/quic-v1/p2p/%s":            "",
		"dnsaddr=/dns4/example.org/tcp/6273/p2p/%s":                "",
		"dnsaddr=/ip6zone/eth0/ip6/fe80::1/tcp/6273/p2p/%s":        "",
		"dnsaddr=/ip4/10.0.0.1/tcp/6273/p2p/%s/p2p-circuit/p2p/%s": "",
		"dnsaddr=/ip4/10.0.0.1/tcp/6273/p2p/QmNotAPeer":            "",
		"dnsaddr=": "",
		"":         "",
	} {
		for i := range text { // every %s is the same peer
			if text[i] == '%' {
				text = fmt.Sprintf(text[:i]+"%s"+text[i+2:], id)
				break
			}
		}
		gotID, addr, ok := parseText(text)
		got := ""
		if ok {
			got = addr.String()
		}
		if got != want || ok && gotID != id {
			t.Errorf("parseText(%q) = %v, %q, %v, want address %q", text, gotID, got, ok, want)
		}
	}
}
