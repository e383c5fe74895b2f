package transport

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

// A Gater keeps this machine on its own links: it dials and accepts only addresses in the networks of the
// interfaces that are used, and those that the user named. It implements connmgr.ConnectionGater.
type Gater struct {
	*standIns
	*paces // notes the connections that are let in

	denies   func(peer.ID) bool
	accepted func(netip.Addr)

	mu    sync.Mutex    // guards what follows
	links []netmon.Link // those that are used
	named map[string][]netip.Addr
}

// NewGater returns a gater without links. There are no connections with the peers that are denied; nil denies none.
// accepted is called with the address of each connection that is let in; it may be nil.
func NewGater(denies func(peer.ID) bool, accepted func(netip.Addr)) *Gater {
	if accepted == nil {
		accepted = func(netip.Addr) {}
	}
	if denies == nil {
		denies = func(peer.ID) bool { return false }
	}
	return &Gater{standIns: newStandIns(), paces: newPaces(), denies: denies, accepted: accepted, named: make(map[string][]netip.Addr)}
}

// SetLinks replaces the links.
func (g *Gater) SetLinks(links []netmon.Link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.links = links
}

// SetNamed replaces the addresses that belong to one name given by the user, or by an SRV record.
func (g *Gater) SetNamed(name string, addrs []netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(addrs) == 0 {
		delete(g.named, name)
		return
	}
	g.named[name] = addrs
}

// IsNeighbour reports whether a is the address of another machine on one of our links.
func (g *Gater) IsNeighbour(a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.onLink(a) && !g.own(a) && !IsMetadata(a)
}

// mayDial reports whether a is a neighbour's address, or one that the user named.
func (g *Gater) mayDial(a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isNamed(a) || g.onLink(a) && !g.own(a) && !IsMetadata(a)
}

// MayAccept is like mayDial, but this machine may always connect to itself, and its guests may by vsock.
func (g *Gater) MayAccept(a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return a.IsLoopback() || g.IsVsock(a) || g.isNamed(a) || g.onLink(a)
}

// onLink reports whether a is in the network of one of the links. A stand-in for a vsock address is on none, whatever
// networks are announced.
func (g *Gater) onLink(a netip.Addr) bool { return !g.IsVsock(a) && netmon.OnLink(g.links, a) }

// Moved reports whether a machine that was at one address and is at another has changed it, rather than having both:
// they differ, and are in one network of ours.
func (g *Gater) Moved(was, now netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return was != now && slices.ContainsFunc(g.links, func(l netmon.Link) bool {
		return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(was) && p.Contains(now) })
	})
}

func (g *Gater) own(a netip.Addr) bool {
	return slices.ContainsFunc(g.links, func(l netmon.Link) bool {
		return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == a.WithZone("") })
	})
}

func (g *Gater) isNamed(a netip.Addr) bool {
	for _, addrs := range g.named {
		if slices.Contains(addrs, a) {
			return true
		}
	}
	return false
}

// IsMetadata reports the addresses where clouds hand secrets to any client. They can look on-link there.
func IsMetadata(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{169, 254, 169, 254}) || a == netip.MustParseAddr("fd00:ec2::254")
}

// announceable returns what a peer is told of where a neighbour can reach us, if we listen at that port.
func (g *Gater) announceable(port uint16) (out []ma.Multiaddr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		for _, p := range l.Addrs {
			if netmon.IsLinkLocal(p.Addr()) {
				continue
			}
			if m, err := netmon.TCPAddr(p.Addr(), port); err == nil {
				out = append(out, m)
			}
		}
	}
	return out
}

// InterceptPeerDial refuses to dial a denied peer.
func (g *Gater) InterceptPeerDial(p peer.ID) bool { return !g.denies(p) }

// InterceptAddrDial refuses to dial an address that mayDial rejects.
func (g *Gater) InterceptAddrDial(_ peer.ID, m ma.Multiaddr) bool {
	a, ok := netmon.IPOf(m)
	if !ok {
		return false
	}
	a, err := g.real(a)
	return err == nil && g.mayDial(a)
}

// InterceptAccept refuses connections from addresses that mayAccept rejects.
func (g *Gater) InterceptAccept(c network.ConnMultiaddrs) bool {
	a, ok := netmon.IPOf(c.RemoteMultiaddr())
	if !ok || !g.MayAccept(a) {
		return false
	}
	if here, _ := netmon.IPOf(c.LocalMultiaddr()); g.IsVsock(a) != g.IsVsock(here) {
		return false // a guest's stand-in, forged: this came by TCP
	}
	g.paces.add(c)
	g.accepted(a)
	return true
}

// InterceptSecured refuses a denied peer, once its ID is proved.
func (g *Gater) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !g.denies(p)
}

// InterceptUpgraded refuses a denied peer, once the connection is complete.
func (g *Gater) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	return !g.denies(c.RemotePeer()), 0
}

// DialContext implements the dialer that libp2p's TCP transport uses.
func (g *Gater) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if cid, ok := g.cidOf(ap.Addr()); ok {
		return g.dialVsock(ctx, cid, ap.Port())
	}
	a, err := g.real(ap.Addr())
	if err != nil {
		return nil, err
	}
	return g.paces.DialContext(ctx, network, netip.AddrPortFrom(a, ap.Port()).String())
}

// InterfaceOf returns the interface that has an address of ours, or "".
func (g *Gater) InterfaceOf(a netip.Addr) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		for _, p := range l.Addrs {
			if p.Addr() == a.WithZone("") && (a.Zone() == "" || a.Zone() == l.Name) {
				return l.Name
			}
		}
	}
	return ""
}

// ShareLink reports whether two machines are on the same one of our links.
func (g *Gater) ShareLink(a, b netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	on := func(l netmon.Link, a netip.Addr) bool {
		return (a.Zone() == "" || a.Zone() == l.Name) &&
			slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) })
	}
	return slices.ContainsFunc(g.links, func(l netmon.Link) bool { return on(l, a) && on(l, b) })
}
