package transport

import (
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

// conn is the addresses of an inbound connection.
type conn struct{ remote ma.Multiaddr }

func (c conn) LocalMultiaddr() ma.Multiaddr  { return ma.StringCast("/ip4/10.1.0.5/tcp/6273") }
func (c conn) RemoteMultiaddr() ma.Multiaddr { return c.remote }

func TestGaterKeepsToLinksAndNames(t *testing.T) {
	g := NewGater(nil, nil)
	g.SetLinks([]netmon.Link{
		p2ptest.Link("eth0", "10.1.0.5/24", "fd01::5/64", "fe80::5/64"),
		p2ptest.Link("eth1", "169.254.9.9/16", "2001:db8:1::5/64"),
	})
	g.SetNamed("far", []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("127.0.0.2")})
	for addr, want := range map[string]struct{ dial, accept bool }{
		"/ip4/10.1.0.6/tcp/1":              {true, true},
		"/ip4/10.1.0.5/tcp/1":              {false, true}, // this machine
		"/ip4/10.1.1.6/tcp/1":              {false, false},
		"/ip4/10.2.0.6/tcp/1":              {false, false},
		"/ip4/8.8.8.8/tcp/1":               {false, false},
		"/ip4/203.0.113.7/tcp/1":           {true, true}, // named
		"/ip4/203.0.113.8/tcp/1":           {false, false},
		"/ip4/127.0.0.1/tcp/1":             {false, true},
		"/ip4/127.0.0.2/tcp/1":             {true, true}, // named
		"/ip4/0.0.0.0/tcp/1":               {false, false},
		"/ip4/224.0.0.251/tcp/1":           {false, false},
		"/ip4/169.254.1.1/tcp/1":           {true, true},
		"/ip4/169.254.169.254/tcp/1":       {false, true}, // where clouds keep secrets
		"/ip6/::1/tcp/1":                   {false, true},
		"/ip6/::ffff:10.1.0.6/tcp/1":       {true, true},
		"/ip6/fd01::6/tcp/1":               {true, true},
		"/ip6/fd01::5/tcp/1":               {false, true}, // this machine
		"/ip6/fd01:0:0:1::6/tcp/1":         {false, false},
		"/ip6/2001:db8:1::6/tcp/1":         {true, true},
		"/ip6/2001:db8:2::6/tcp/1":         {false, false},
		"/ip6/fe80::6/tcp/1":               {false, false}, // on which link?
		"/ip6zone/eth0/ip6/fe80::6/tcp/1":  {true, true},
		"/ip6zone/wlan0/ip6/fe80::6/tcp/1": {false, false},
		"/dns4/localhost/tcp/1":            {false, false},
		"/unix/tmp":                        {false, false},
	} {
		m := ma.StringCast(addr)
		if got := g.InterceptAddrDial("", m); got != want.dial {
			t.Errorf("InterceptAddrDial(%s) = %v, want %v", addr, got, want.dial)
		}
		if got := g.InterceptAccept(conn{m}); got != want.accept {
			t.Errorf("InterceptAccept(%s) = %v, want %v", addr, got, want.accept)
		}
	}
}

func TestMovedMeansWithinOneNetwork(t *testing.T) {
	g := NewGater(nil, nil)
	g.SetLinks([]netmon.Link{p2ptest.Link("eth0", "10.1.0.5/24", "fd01::5/64")})
	for _, c := range []struct {
		was, now string
		want     bool
	}{
		{"10.1.0.6", "10.1.0.7", true},
		{"10.1.0.6", "10.1.0.6", false},
		{"10.1.0.6", "fd01::6", false},
		{"10.1.0.6", "10.2.0.6", false},
		{"10.2.0.6", "10.2.0.7", false},
	} {
		if got := g.Moved(netip.MustParseAddr(c.was), netip.MustParseAddr(c.now)); got != c.want {
			t.Errorf("moved(%s, %s) = %v, want %v", c.was, c.now, got, c.want)
		}
	}
}

func TestDeniedPeerIsRefusedBothWays(t *testing.T) {
	denied, other := p2ptest.NewPeer(t), p2ptest.NewPeer(t)
	g := NewGater(func(id peer.ID) bool { return id == denied }, nil)
	for id, want := range map[peer.ID]bool{denied: false, other: true} {
		if dial, accept := g.InterceptPeerDial(id), g.InterceptSecured(network.DirInbound, id, nil); dial != want || accept != want {
			t.Errorf("peer %s: dial %v, accept %v, want both %v", id, dial, accept, want)
		}
	}
}

func TestTellingKeepsToTheLink(t *testing.T) {
	g := NewGater(nil, nil)
	g.SetLinks([]netmon.Link{p2ptest.Link("eth0", "10.1.0.5/24", "fd01::5/64", "fe80::5/64"), p2ptest.Link("eth1", "10.2.0.5/24")})
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"10.1.0.6", "10.1.0.7", true},
		{"10.1.0.6", "fd01::7", true},
		{"fe80::6%eth0", "10.1.0.7", true},
		{"10.1.0.6", "10.2.0.7", false},
		{"10.2.0.6", "fd01::7", false},
		{"127.0.0.1", "10.1.0.7", false},
		{"8.8.8.8", "8.8.8.8", false},
	} {
		if got := g.ShareLink(netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)); got != c.want {
			t.Errorf("shareLink(%s, %s) = %v, want %v", c.a, c.b, got, c.want)
		}
	}
}
