package discovery

import (
	"context"
	"net"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/zeroconf/v2"

	"narbor/p2p/netmon"
)

// A Net takes the place of this machine's network: one interface that never changes, and connections and announcements
// as its maker likes. So a whole LAN fits into a test.
type Net struct {
	Addr      netip.Prefix // this machine's, with its network's length
	Transport func(transport.Upgrader, network.ResourceManager) (transport.Transport, error)
	Found     <-chan *zeroconf.ServiceEntry // what multicast DNS finds
	Kept      int                           // how many neighbours to keep; 0 is as many as elsewhere
}

func (n *Net) links(p netmon.Policy) ([]netmon.Link, error) {
	if n == nil {
		return p.Scan()
	}
	name := "net"
	return []netmon.Link{{InterfaceStatus: netmon.InterfaceStatus{Name: name, Used: true}, Interface: net.Interface{Name: name},
		Addrs: []netip.Prefix{n.Addr}}}, nil
}

// follow passes found entries to hear until ctx ends.
func (n *Net) follow(ctx context.Context, hear func(*zeroconf.ServiceEntry)) error {
	for {
		select {
		case e := <-n.Found:
			hear(e)
		case <-ctx.Done():
			return nil
		}
	}
}
