package p2p

import (
	"net/netip"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

func TestParseVsockPeer(t *testing.T) {
	for _, good := range []struct {
		text string
		cid  uint32
		port uint16
	}{{"vsock:2", 2, 6273}, {"vsock:2:7000", 2, 7000}, {"vsock:4294967294", 1<<32 - 2, 6273}} {
		n, err := parseNamedPeer(good.text)
		if err != nil || n.cid != good.cid || n.port != good.port {
			t.Errorf("parseNamedPeer(%q) = %+v, %v, want %d at %d", good.text, n, err, good.cid, good.port)
		}
	}
	for _, bad := range []string{"vsock:", "vsock:x", "vsock:0", "vsock:1", "vsock:-2", "vsock:4294967295", "vsock:4294967296",
		"vsock:2:", "vsock:2:0", "vsock:2:65536", "vsock:2:6273:1", "vsock:2/"} {
		if n, err := parseNamedPeer(bad); err == nil {
			t.Errorf("parseNamedPeer(%q) = %+v, want an error", bad, n)
		}
	}
	if n, err := parseNamedPeer("vsock.:2"); err != nil || n.name != "vsock." {
		t.Errorf("a machine that is called vsock = %+v, %v", n, err)
	}
}

// What stands for a machine that is reached by vsock is known to this gater alone, and is dialled only if it is named.
func TestVsockStandIns(t *testing.T) {
	g, other := newGater(), newGater()
	g.setLinks([]link{testLink("eth0", "fe80::5/64", "fd01::5/64", "100::5/8")}) // the last has all stand-ins in it
	for _, cid := range []uint32{2, 3, 1<<32 - 2} {
		a := g.vsockAddr(cid)
		if got, ok := g.cidOf(a); !ok || got != cid {
			t.Errorf("cidOf(vsockAddr(%d)) = %d, %v", cid, got, ok)
		}
		if real, err := g.real(a); err != nil || real != a {
			t.Errorf("real(%s) = %s, %v, want it as it is", a, real, err)
		}
		if !g.mayAccept(a) {
			t.Errorf("guest %d may not connect", cid)
		}
		if other.isVsock(a) || other.mayAccept(a) || other.mayDial(a) {
			t.Errorf("%s counts as vsock elsewhere", a)
		}
		m, err := tcpAddr(a, 6273)
		if err != nil {
			t.Fatal(err)
		}
		if g.InterceptAddrDial("", m) {
			t.Errorf("%s is dialled, and nobody has named it", g.text(m))
		}
		g.setNamed("vsock", []netip.Addr{a})
		if !g.InterceptAddrDial("", m) {
			t.Errorf("%s is not dialled", g.text(m))
		}
		g.setNamed("vsock", nil)
	}
	for _, a := range []string{"10.0.0.1", "::1", "fe80::1%eth0", "100::2", "::"} {
		if g.isVsock(netip.MustParseAddr(a)) {
			t.Errorf("%s counts as vsock", a)
		}
	}
}

func TestVsockAddressesAreShownAsSuch(t *testing.T) {
	g := newGater()
	for _, c := range []struct {
		addr netip.Addr
		want string
	}{
		{g.vsockAddr(2), "vsock:2:6273"}, {g.vsockAddr(vsockAny), "vsock:*:6273"},
		{netip.MustParseAddr("fd00::1"), "/ip6/fd00::1/tcp/6273"}, {netip.MustParseAddr("10.0.0.1"), "/ip4/10.0.0.1/tcp/6273"},
	} {
		m, err := tcpAddr(c.addr, 6273)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.text(m); got != c.want {
			t.Errorf("text(%s) = %q, want %q", m, got, c.want)
		}
	}
	if got := g.text(ma.StringCast("/ip4/10.0.0.1")); got != "/ip4/10.0.0.1" {
		t.Errorf("text of an address without port = %q", got)
	}
}
