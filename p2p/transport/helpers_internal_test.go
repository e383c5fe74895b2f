package transport

import (
	"net"
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

// ends are the addresses of a connection.
type ends struct {
	network.Conn
	local, remote netip.Addr
}

func (e ends) LocalMultiaddr() ma.Multiaddr  { return p2ptest.Must(netmon.TCPAddr(e.local, 6273)) }
func (e ends) RemoteMultiaddr() ma.Multiaddr { return p2ptest.Must(netmon.TCPAddr(e.remote, 6273)) }

// shownStandIns returns the stand-ins for a link-local address on the loopback interface and for the host by vsock, and
// the texts that are shown instead of each.
func shownStandIns(t *testing.T, g *Gater) (linkLocal, vsock ma.Multiaddr, shown [2]string) {
	t.Helper()
	lo, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	real := "/ip6zone/" + lo.Name + "/ip6/fe80::1:2:3:4/tcp/6273"
	return p2ptest.Must(g.StandIn(ma.StringCast(real))), p2ptest.Must(netmon.TCPAddr(g.VsockAddr(2), 6273)), [2]string{real, "vsock:2:6273"}
}
