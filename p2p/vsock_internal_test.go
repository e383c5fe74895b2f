package p2p

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
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
	g, other := newGater(nil), newGater(nil)
	g.setLinks([]netmon.Link{testLink("eth0", "fe80::5/64", "fd01::5/64", "100::5/8")}) // the last has all stand-ins in it
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
		m, err := netmon.TCPAddr(a, 6273)
		if err != nil {
			t.Fatal(err)
		}
		if g.InterceptAddrDial("", m) {
			t.Errorf("%s is dialled, and was not named", g.text(m))
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
	g := newGater(nil)
	for _, c := range []struct {
		addr netip.Addr
		want string
	}{
		{g.vsockAddr(2), "vsock:2:6273"}, {g.vsockAddr(vsockAny), "vsock:*:6273"},
		{netip.MustParseAddr("fd00::1"), "/ip6/fd00::1/tcp/6273"}, {netip.MustParseAddr("10.0.0.1"), "/ip4/10.0.0.1/tcp/6273"},
	} {
		m, err := netmon.TCPAddr(c.addr, 6273)
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

// ends are the addresses of a connection.
type ends struct {
	network.Conn
	local, remote netip.Addr
}

func (e ends) LocalMultiaddr() ma.Multiaddr  { return must(netmon.TCPAddr(e.local, 6273)) }
func (e ends) RemoteMultiaddr() ma.Multiaddr { return must(netmon.TCPAddr(e.remote, 6273)) }
func (e ends) RemotePeer() peer.ID           { return "somebody" }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A guest receives its stand-in address, and a forger of packets on the LAN may learn it, too.
func TestForgedGuestIsRefused(t *testing.T) {
	g := newGater(nil)
	here := netip.MustParseAddr("fd01::5")
	g.setLinks([]netmon.Link{testLink("eth0", "fd01::5/64")})
	if !g.InterceptAccept(ends{local: g.vsockAddr(vsockAny), remote: g.vsockAddr(3)}) {
		t.Error("a guest is refused")
	}
	if g.InterceptAccept(ends{local: here, remote: g.vsockAddr(3)}) {
		t.Error("a TCP connection from the stand-in of a guest is accepted")
	}
	if !g.InterceptAccept(ends{local: here, remote: netip.MustParseAddr("fd01::6")}) {
		t.Error("a neighbour is refused")
	}
	if g.vsockAddr(3) == newGater(nil).vsockAddr(3) {
		t.Error("the stand-in of a guest is the same everywhere")
	}
}

// Changes of networks are nothing to connections by vsock.
func TestVsockOutlivesNetworks(t *testing.T) {
	l := &lan{gate: newGater(nil)}
	guest := ends{local: l.gate.vsockAddr(vsockAny), remote: l.gate.vsockAddr(3)}
	if l.isOrphan(guest, nil, nil) {
		t.Error("a guest is let go when there is no network")
	}
	gone := ends{local: netip.MustParseAddr("10.0.0.1"), remote: netip.MustParseAddr("10.0.0.2")}
	if !l.isOrphan(gone, nil, nil) {
		t.Error("a connection from an address that this machine has no longer is kept")
	}
}

// A guest that was paused is noticed as soon as a cable that was pulled.
func TestSilentGuestIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGater(nil)
		for _, c := range []struct {
			remote netip.Addr
			lost   bool
		}{{g.vsockAddr(3), true}, {netip.MustParseAddr("10.0.0.2"), false}} {
			mine, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			conn, err := newMuxer(nil, g).NewConn(vsockConn{mine, nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.remote, 1))}, true,
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

// A host without narbor, or no host at all, is looked for now and then; a peer that the user named, again and again.
func TestHostIsLookedForWithPatience(t *testing.T) {
	refused := fmt.Errorf("dial: %w", &swarm.DialError{DialErrors: []swarm.TransportError{{Cause: syscall.ECONNRESET}}})
	none := fmt.Errorf("dial: %w", &swarm.DialError{DialErrors: []swarm.TransportError{{Cause: syscall.ENODEV}}})
	named := must(parseNamedPeer("vsock:2"))
	for _, c := range []struct {
		about    string
		peer     *namedPeer
		failures int
		err      error
		long     bool
	}{
		{"there is no host", hostPeer(), 0, none, true},
		{"the host has just started", hostPeer(), 1, refused, false},
		{"the host has no narbor", hostPeer(), hostTries, refused, true},
		{"the user has named it", named, hostTries, refused, false},
	} {
		if wait := c.peer.rest(c.failures, c.err); wait >= lookAgain != c.long || wait > lookAgain {
			t.Errorf("%s: dialled again after %v", c.about, wait)
		}
	}
}

// The user may name the host, too, and that is kept apart from the one that is looked for anyway.
func TestHostMayBeNamed(t *testing.T) {
	l := &lan{gate: newGater(nil), added: &added{}, renamed: make(chan struct{}, 1)}
	l.added.keepHost(l)
	l.added.keepHost(l)
	if n := len(l.namedNow()); n != 1 {
		t.Errorf("the host is looked for %d times", n)
	}
	if err := l.added.add(l, "vsock:2"); err != nil || len(l.namedNow()) != 2 {
		t.Errorf("add(vsock:2) = %v with %d named, want 2", err, len(l.namedNow()))
	}
	if err := l.added.remove(l, "vsock:2"); err != nil || len(l.namedNow()) != 1 || l.namedNow()[0].from != fromVsock {
		t.Errorf("remove(vsock:2) = %v, and %+v is left, want the host", err, l.namedNow())
	}
}
