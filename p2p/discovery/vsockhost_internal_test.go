package discovery

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
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

// ends are the addresses of a connection.
type ends struct {
	network.Conn
	local, remote netip.Addr
}

func (e ends) LocalMultiaddr() ma.Multiaddr { return p2ptest.Must(netmon.TCPAddr(e.local, 6273)) }

func (e ends) RemoteMultiaddr() ma.Multiaddr { return p2ptest.Must(netmon.TCPAddr(e.remote, 6273)) }

func (e ends) RemotePeer() peer.ID { return "a peer" }

// Changes of networks are nothing to connections by vsock.
func TestVsockOutlivesNetworks(t *testing.T) {
	l := &LAN{Conns: &Conns{Gate: transport.NewGater(nil, nil)}}
	guest := ends{local: l.Gate.VsockAddr(5), remote: l.Gate.VsockAddr(3)}
	if l.isOrphan(guest, nil, nil) {
		t.Error("a guest is let go when there is no network")
	}
	gone := ends{local: netip.MustParseAddr("10.0.0.1"), remote: netip.MustParseAddr("10.0.0.2")}
	if !l.isOrphan(gone, nil, nil) {
		t.Error("a connection from an address that this machine has no longer is kept")
	}
}

// A host without narbor, or no host at all, is looked for now and then; a peer that the user named, again and again.
func TestHostIsLookedForWithPatience(t *testing.T) {
	refused := fmt.Errorf("dial: %w", &swarm.DialError{DialErrors: []swarm.TransportError{{Cause: syscall.ECONNRESET}}})
	none := fmt.Errorf("dial: %w", &swarm.DialError{DialErrors: []swarm.TransportError{{Cause: syscall.ENODEV}}})
	named := p2ptest.Must(parseNamedPeer("vsock:2"))
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
	named := newNamedPeers(nil, nil, nil)
	kept := &added{named: named}
	kept.keepHost()
	kept.keepHost()
	if n := len(named.now()); n != 1 {
		t.Errorf("the host is looked for %d times", n)
	}
	if err := kept.add("vsock:2"); err != nil || len(named.now()) != 2 {
		t.Errorf("add(vsock:2) = %v with %d named, want 2", err, len(named.now()))
	}
	if err := kept.remove("vsock:2"); err != nil || len(named.now()) != 1 || named.now()[0].from != fromVsock {
		t.Errorf("remove(vsock:2) = %v, and %+v is left, want the host", err, named.now())
	}
}
