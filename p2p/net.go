package p2p

import (
	"context"
	"net"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"

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

// transport is what connections are made of: TCP, unless there is a Net.
func (n *Net) transport(gate *gater, up transport.Upgrader, limits network.ResourceManager) (transport.Transport, error) {
	if n != nil {
		return n.Transport(up, limits)
	}
	t, err := tcp.NewTCPTransport(up, limits, nil,
		tcp.WithConnectionTimeout(dialTimeout),
		tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) { return gate, nil }),
		tcp.DisableReuseport()) // with it, a second narbor on this port would take half of the first one's connections
	return carrier{t, gate, up}, err
}

// links are this machine's interfaces.
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
