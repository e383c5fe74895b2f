package netmon

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbourKnown are the states in which the kernel knows the link-layer address of an IP address.
const neighbourKnown = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP

// FindMAC returns the link-layer address that the kernel's neighbour table has for an IP address, or "". Any user may
// read that table.
func FindMAC(a netip.Addr) string {
	family, index := netlink.FAMILY_V4, 0
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	if a.Zone() != "" {
		ifi, err := net.InterfaceByName(a.Zone())
		if err != nil {
			return ""
		}
		index = ifi.Index
	}
	table, err := netlink.NeighList(index, family)
	if err != nil {
		return ""
	}
	ip := net.IP(a.AsSlice())
	for _, n := range table {
		mac := n.HardwareAddr
		if n.IP.Equal(ip) && n.State&neighbourKnown != 0 && !bytes.Equal(mac, make([]byte, len(mac))) {
			return mac.String()
		}
	}
	return ""
}
