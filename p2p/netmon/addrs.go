package netmon

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// MaxAddrText is the longest text of an address of a peer that is parsed, in bytes.
	MaxAddrText = 200
	// MaxAddrs bounds the addresses of one machine, this one and others.
	MaxAddrs = 8
	// MinPort is the lowest port that is dialled because of an announcement: narbor cannot have a lower one without
	// privileges, and it would be what a router or a printer is managed by.
	MinPort = 1024
)

// IPOf returns the IP address that a multiaddr begins with.
func IPOf(m ma.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(m)
	if err != nil {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{}, false
	}
	if zone, err := m.ValueForProtocol(ma.P_IP6ZONE); err == nil {
		a = a.WithZone(zone)
	}
	return a.Unmap(), true
}

// IsLinkLocal reports the addresses that need a zone.
func IsLinkLocal(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.IsLinkLocalUnicast() }

// Zoned puts a zone before an address.
func Zoned(m ma.Multiaddr, zone string) ma.Multiaddr {
	z, err := ma.NewComponent("ip6zone", zone)
	if err != nil {
		return m // without a zone it is not used
	}
	return append(ma.Multiaddr{*z}, m...)
}

// SplitPeerAddr accepts /(ip4|ip6)/ADDRESS/tcp/PORT/p2p/ID and nothing else.
func SplitPeerAddr(m ma.Multiaddr) (peer.ID, ma.Multiaddr, bool) {
	if len(m) != 3 || m[0].Code() != ma.P_IP4 && m[0].Code() != ma.P_IP6 || m[1].Code() != ma.P_TCP || m[2].Code() != ma.P_P2P {
		return "", nil, false
	}
	if port, ok := TCPPort(m); !ok || port < MinPort {
		return "", nil, false
	}
	info, err := peer.AddrInfoFromP2pAddr(m)
	if err != nil || len(info.Addrs) != 1 {
		return "", nil, false
	}
	return info.ID, info.Addrs[0], true
}

// TCPPort returns the TCP port of a multiaddr.
func TCPPort(m ma.Multiaddr) (uint16, bool) {
	text, err := m.ValueForProtocol(ma.P_TCP)
	if err != nil {
		return 0, false
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return uint16(port), err == nil
}

// PeerAddr is splitPeerAddr's inverse.
func PeerAddr(a netip.AddrPort, id peer.ID) (ma.Multiaddr, error) {
	m, err := TCPAddr(a.Addr(), a.Port())
	if err != nil {
		return nil, err
	}
	p, err := ma.NewComponent("p2p", id.String())
	if err != nil {
		return nil, err
	}
	return m.AppendComponent(p), nil
}

// TCPAddr returns the multiaddr of a TCP port at an IP address.
func TCPAddr(a netip.Addr, port uint16) (ma.Multiaddr, error) {
	return manet.FromNetAddr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
}

// ByReach separates the addresses of a machine: link-local ones are for when the others fail.
func ByReach(addrs []ma.Multiaddr) (first, last []ma.Multiaddr) {
	for _, m := range addrs {
		if a, ok := IPOf(m); ok && IsLinkLocal(a) {
			last = append(last, m)
		} else {
			first = append(first, m)
		}
	}
	return first, last
}

// plainInterfaceAddrs asks the standard library, which does not say whether an address is usable yet.
func plainInterfaceAddrs(ifis []net.Interface) map[int][]netip.Prefix {
	out := make(map[int][]netip.Prefix, len(ifis))
	for _, ifi := range ifis {
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if p, ok := PrefixOf(n); ok {
				out[ifi.Index] = append(out[ifi.Index], p)
			}
		}
	}
	return out
}

// PrefixOf keeps the whole address beside the length of its network.
func PrefixOf(n *net.IPNet) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	ip = ip.Unmap()
	if bits == 128 && ip.Is4() {
		ones -= 96
	}
	p := netip.PrefixFrom(ip, ones)
	return p, p.IsValid()
}
