package netmon

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateways returns where the default routes of links lead. Each link is given by its index.
func Gateways() ([]Gateway, error) {
	var out []Gateway
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

func appendGateway(all []Gateway, index int, ip net.IP) []Gateway {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return all
	}
	g := Gateway{Index: index, Addr: a.Unmap()}
	family := netlink.FAMILY_V4
	if g.Addr.Is6() {
		family = netlink.FAMILY_V6
	}
	neighs, err := netlink.NeighList(index, family)
	if err != nil {
		return append(all, g)
	}
	for _, n := range neighs {
		if n.IP.Equal(ip) && n.State&neighbourKnown != 0 && len(n.HardwareAddr) > 0 {
			g.MAC = n.HardwareAddr.String()
		}
	}
	return append(all, g)
}
