package p2p

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// findGateways returns where the default routes of links lead. Each link is given by its index.
func findGateways() ([]gateway, error) {
	var out []gateway
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: nil},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Gw != nil {
				out = appendGateway(out, r.LinkIndex, r.Gw)
			}
			for _, hop := range r.MultiPath {
				if hop.Gw != nil {
					out = appendGateway(out, hop.LinkIndex, hop.Gw)
				}
			}
		}
	}
	return out, nil
}

func appendGateway(all []gateway, index int, ip net.IP) []gateway {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return all
	}
	g := gateway{index: index, addr: a.Unmap()}
	family := netlink.FAMILY_V4
	if g.addr.Is6() {
		family = netlink.FAMILY_V6
	}
	neighs, err := netlink.NeighList(index, family)
	if err != nil {
		return append(all, g)
	}
	for _, n := range neighs {
		if n.IP.Equal(ip) && n.State&neighbourKnown != 0 && len(n.HardwareAddr) > 0 {
			g.mac = n.HardwareAddr.String()
		}
	}
	return append(all, g)
}
