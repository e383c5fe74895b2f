package transport

import (
	"crypto/rand"
	"net"
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

func newTestIdentity(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTestPeer(t testing.TB) peer.ID {
	t.Helper()
	return must(peer.IDFromPrivateKey(newTestIdentity(t)))
}

func testLink(name string, addrs ...string) netmon.Link {
	l := netmon.Link{InterfaceStatus: netmon.InterfaceStatus{Name: name, Used: true}}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}

// ends are the addresses of a connection.
type ends struct {
	network.Conn
	local, remote netip.Addr
}

func (e ends) LocalMultiaddr() ma.Multiaddr  { return must(netmon.TCPAddr(e.local, 6273)) }
func (e ends) RemoteMultiaddr() ma.Multiaddr { return must(netmon.TCPAddr(e.remote, 6273)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// shownStandIns returns the stand-ins for a link-local address on the loopback interface and for the host by vsock, and
// the texts that are shown instead of each.
func shownStandIns(t *testing.T, g *Gater) (linkLocal, vsock ma.Multiaddr, shown [2]string) {
	t.Helper()
	lo, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	real := "/ip6zone/" + lo.Name + "/ip6/fe80::1:2:3:4/tcp/6273"
	return must(g.StandIn(ma.StringCast(real))), must(netmon.TCPAddr(g.VsockAddr(2), 6273)), [2]string{real, "vsock:2:6273"}
}
