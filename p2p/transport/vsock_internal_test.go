package transport

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

// The stand-in for a machine that is reached by vsock is known to this gater alone, and is dialled only if it is named.
func TestVsockStandIns(t *testing.T) {
	g, other := NewGater(nil, nil), NewGater(nil, nil)
	g.SetLinks([]netmon.Link{p2ptest.Link("eth0", "fe80::5/64", "fd01::5/64", "100::5/8")}) // the last has all stand-ins in it
	for _, cid := range []uint32{2, 3, 1<<32 - 2} {
		a := g.VsockAddr(cid)
		if got, ok := g.cidOf(a); !ok || got != cid {
			t.Errorf("cidOf(vsockAddr(%d)) = %d, %v", cid, got, ok)
		}
		if real, err := g.real(a); err != nil || real != a {
			t.Errorf("real(%s) = %s, %v, want it as it is", a, real, err)
		}
		if !g.MayAccept(a) {
			t.Errorf("guest %d may not connect", cid)
		}
		if other.IsVsock(a) || other.MayAccept(a) || other.mayDial(a) {
			t.Errorf("%s counts as vsock elsewhere", a)
		}
		m, err := netmon.TCPAddr(a, 6273)
		if err != nil {
			t.Fatal(err)
		}
		if g.InterceptAddrDial("", m) {
			t.Errorf("%s is dialled, and was not named", g.Text(m))
		}
		g.SetNamed("vsock", []netip.Addr{a})
		if !g.InterceptAddrDial("", m) {
			t.Errorf("%s is not dialled", g.Text(m))
		}
		g.SetNamed("vsock", nil)
	}
	for _, a := range []string{"10.0.0.1", "::1", "fe80::1%eth0", "100::2", "::"} {
		if g.IsVsock(netip.MustParseAddr(a)) {
			t.Errorf("%s counts as vsock", a)
		}
	}
}

func TestVsockAddressesAreShownAsSuch(t *testing.T) {
	g := NewGater(nil, nil)
	for _, c := range []struct {
		addr netip.Addr
		want string
	}{
		{g.VsockAddr(2), "vsock:2:6273"}, {g.VsockAddr(vsockAny), "vsock:*:6273"},
		{netip.MustParseAddr("fd00::1"), "/ip6/fd00::1/tcp/6273"}, {netip.MustParseAddr("10.0.0.1"), "/ip4/10.0.0.1/tcp/6273"},
	} {
		m, err := netmon.TCPAddr(c.addr, 6273)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Text(m); got != c.want {
			t.Errorf("text(%s) = %q, want %q", m, got, c.want)
		}
	}
	if got := g.Text(ma.StringCast("/ip4/10.0.0.1")); got != "/ip4/10.0.0.1" {
		t.Errorf("text of an address without port = %q", got)
	}
}

// A guest receives its stand-in address, and a forger of packets on the LAN may learn it, too.
func TestForgedGuestIsRefused(t *testing.T) {
	g := NewGater(nil, nil)
	here := netip.MustParseAddr("fd01::5")
	g.SetLinks([]netmon.Link{p2ptest.Link("eth0", "fd01::5/64")})
	if !g.InterceptAccept(ends{local: g.VsockAddr(vsockAny), remote: g.VsockAddr(3)}) {
		t.Error("a guest is refused")
	}
	if g.InterceptAccept(ends{local: here, remote: g.VsockAddr(3)}) {
		t.Error("a TCP connection from the stand-in of a guest is accepted")
	}
	if !g.InterceptAccept(ends{local: here, remote: netip.MustParseAddr("fd01::6")}) {
		t.Error("a neighbour is refused")
	}
	if g.VsockAddr(3) == NewGater(nil, nil).VsockAddr(3) {
		t.Error("the stand-in of a guest is the same everywhere")
	}
}

// A guest that was paused is noticed as soon as a cable that was pulled.
func TestSilentGuestIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGater(nil, nil)
		for _, c := range []struct {
			remote netip.Addr
			lost   bool
		}{{g.VsockAddr(3), true}, {netip.MustParseAddr("10.0.0.2"), false}} {
			mine, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			conn, err := newMuxer(g, true).NewConn(vsockConn{mine, nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.remote, 1))}, true,
				&network.NullScope{})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(keepAlive + writeTimeout + time.Second)
			if conn.IsClosed() != c.lost {
				t.Errorf("%s has said nothing for a while, and its connection is closed: %v, want %v", c.remote, conn.IsClosed(), c.lost)
			}
			conn.Close()
			theirs.Close()
		}
	})
}
