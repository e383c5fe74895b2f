package mdns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/zeroconf/v2"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

func TestParseEntryKeepsNeighboursAlone(t *testing.T) {
	s := newTestService(t, "10.1.0.5/24", "fd01::5/64", "fe80::5/64")
	a, b, self := p2ptest.NewPeer(t), p2ptest.NewPeer(t), s.cfg.Self
	var many []string
	for i := range 3 * netmon.MaxAddrs {
		many = append(many, fmt.Sprintf("/ip4/10.1.0.%d/tcp/6273/p2p/%s", i+10, a))
	}
	for _, c := range []struct {
		name string
		in   []string
		want int // addresses kept
	}{
		{"two neighbours' addresses", []string{"/ip4/10.1.0.6/tcp/6273/p2p/" + a.String(), "/ip6/fd01::6/tcp/6273/p2p/" + a.String()}, 2},
		{"twice the same", []string{"/ip4/10.1.0.6/tcp/6273/p2p/" + a.String(), "/ip4/10.1.0.6/tcp/6273/p2p/" + a.String()}, 1},
		{"two peers", []string{"/ip4/10.1.0.6/tcp/6273/p2p/" + a.String(), "/ip4/10.1.0.7/tcp/6273/p2p/" + b.String()}, 1},
		{"ourselves", []string{"/ip4/10.1.0.6/tcp/6273/p2p/" + self.String()}, 0},
		{"our own address", []string{"/ip4/10.1.0.5/tcp/6273/p2p/" + a.String()}, 0},
		{"another network", []string{"/ip4/10.2.0.6/tcp/6273/p2p/" + a.String()}, 0},
		{"loopback", []string{"/ip4/127.0.0.1/tcp/6273/p2p/" + a.String()}, 0},
		{"very long", []string{"/ip4/10.1.0.6/tcp/6273/p2p/" + strings.Repeat("1", 1000)}, 0},
		{"too many", many, netmon.MaxAddrs},
		{"far behind nonsense", append(make([]string, maxTexts), "/ip4/10.1.0.6/tcp/6273/p2p/"+a.String()), 0},
		{"a router's pages", []string{"/ip4/10.1.0.1/tcp/80/p2p/" + a.String(), "/ip4/10.1.0.1/tcp/443/p2p/" + a.String()}, 0},
		{"none", nil, 0},
		{"the link-local address it came from", []string{"/ip6/fe80::9/tcp/6273/p2p/" + a.String()}, 1},
		{"another link-local address", []string{"/ip6/fe80::8/tcp/6273/p2p/" + a.String()}, 0},
		{"a link-local address with a zone", []string{"/ip6zone/eth0/ip6/fe80::9/tcp/6273/p2p/" + a.String()}, 0},
	} {
		e := &zeroconf.ServiceEntry{Expiry: time.Now().Add(1000 * time.Hour)}
		for _, text := range c.in {
			e.Text = append(e.Text, textPrefix+text)
		}
		got, ok := s.parse(e, netip.MustParseAddr("fe80::9%eth0"))
		if len(got.Addrs) != c.want || ok != (c.want > 0) {
			t.Errorf("%s: parse = %v, %v, want %d addresses", c.name, got.Addrs, ok, c.want)
		}
		if time.Until(got.Expiry) > ttl*time.Second {
			t.Errorf("%s: believed for %v, want at most %d s", c.name, time.Until(got.Expiry), ttl)
		}
	}
}

func TestAnnouncementSaysNothingButAddresses(t *testing.T) {
	s := newTestService(t)
	ips, texts := s.texts(p2ptest.Link("eth0", "10.1.0.5/24", "fe80::5/64", "fd01::5/64"))
	tail := fmt.Sprintf("/tcp/%d/p2p/%s", testPort, s.cfg.Self)
	if want := []string{"dnsaddr=/ip4/10.1.0.5" + tail, "dnsaddr=/ip6/fd01::5" + tail, "dnsaddr=/ip6/fe80::5" + tail}; !slices.Equal(texts,
		want) {
		t.Errorf("announced %q, want %q", texts, want)
	}
	if want := []string{"10.1.0.5", "fd01::5", "fe80::5"}; !slices.Equal(ips, want) {
		t.Errorf("announced %q, want %q", ips, want)
	}
}

func TestParseText(t *testing.T) {
	id := p2ptest.NewPeer(t)
	for text, want := range map[string]string{
		"dnsaddr=/ip4/10.0.0.1/tcp/6273/p2p/%s":                    "/ip4/10.0.0.1/tcp/6273",
		"dnsaddr=/ip6/fd00::1/tcp/1024/p2p/%s":                     "/ip6/fd00::1/tcp/1024",
		"dnsaddr=/ip4/10.0.0.1/tcp/1023/p2p/%s":                    "",
		"dnsaddr=/ip4/10.0.0.1/tcp/0/p2p/%s":                       "",
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
