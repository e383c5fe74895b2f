package netmon

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
)

// Reasons for not using an interface.
const (
	NoCarrier = "no carrier" // its cable is out
	Metered   = "metered"    // it costs money by the byte
)

// An adapter is a network interface without its addresses.
type adapter struct {
	name  string
	index int
	flags net.Flags
	// kind is what rtnetlink calls it: "veth", "bridge", "wireguard", …; "tap" for the Ethernet sort of "tun"; "device"
	// is hardware, or what a virtual machine takes for it; "" is unknown, as it always is on systems other than Linux.
	kind    string
	master  string   // the bridge or bond that it is part of; "" is none
	members []string // the kinds of a bridge's members
	route   bool     // the way to the internet leads through it
	metered bool     // each byte costs money
}

// A Policy chooses the interfaces on which neighbours are looked for. In this order:
//
//   - Loopback is never used, and nothing that is down, or has no carrier or no address.
//   - What the user says counts: what matches --no-interface is not used; if there is any --interface, exactly what
//     matches it is used, whatever it is. The patterns are those of [path.Match].
//   - A member of a bridge or a bond is not used: the bridge or bond is.
//   - Tunnels, VPNs and point-to-point links are not used: the machines behind them are far away. Nor are interfaces that
//     cannot multicast, or have no machine behind them: dummies, and those that a virtual machine has taken for itself.
//   - Networks of containers are not used: only containers of this machine are there. They are known by the names that
//     Docker, Podman and CNI give their bridges; and a bridge is one of containers if all its members are, that is
//     ends of veth pairs or of tunnels. With anything else in it, such as a network card or a virtual machine's tap, it
//     is a LAN, and so it always is if it has a virtual machine host's name for one (virbr*, vmbr*, microvm*).
//   - The end of a veth pair leads to a container, too. But this may be that container, and the other end the LAN. So a
//     veth, or a bridge of them, is used if the way to the internet leads through it, and also if this network
//     namespace has no real network: no card, no bond, VLAN or macvlan, up or not.
//   - What NetworkManager, if there is one, takes for metered is not used.
//
// All else is used: network cards, Wi-Fi, bonds, VLANs, taps.
type Policy struct {
	allow []string // if there are any, only these
	deny  []string // never these
	meter *meter   // nil knows of none
}

// NewPolicy checks the patterns.
func NewPolicy(allow, deny []string) (Policy, error) {
	for _, pattern := range slices.Concat(allow, deny) {
		if _, err := path.Match(pattern, ""); err != nil {
			return Policy{}, fmt.Errorf("interface pattern %q: %w", pattern, err)
		}
	}
	return Policy{allow: allow, deny: deny, meter: newMeter("")}, nil
}

// refuse returns why an interface is not used, or "". It does not look at addresses.
func (p Policy) refuse(a adapter, namespaceHasCard bool) string {
	switch {
	case a.flags&net.FlagLoopback != 0:
		return "loopback"
	case matchAny(p.deny, a.name):
		return "excluded by --no-interface"
	case len(p.allow) > 0 && !matchAny(p.allow, a.name):
		return "not among --interface"
	case a.flags&net.FlagUp == 0:
		return "down"
	case a.flags&net.FlagRunning == 0:
		return NoCarrier
	case len(p.allow) > 0:
		return ""
	}
	if reason := a.noLAN(); reason != "" {
		return reason
	}
	if reason := a.containers(); reason != "" && !a.route && namespaceHasCard {
		return reason
	}
	if a.metered {
		return Metered
	}
	return ""
}

// noLAN returns why no neighbours can be found on an interface, or "".
func (a adapter) noLAN() string {
	switch {
	case a.master != "":
		return "part of " + a.master
	case matchAny(containerNames(), a.name), a.kind == "bridge" && dockerBridge(a.name):
		return "containers, by its name"
	case matchAny(vpnNames(), a.name):
		return "VPN, by its name"
	case a.kind == "" && matchAny(namesOfUnknownKind(), a.name):
		return "container or tunnel, by its name"
	case slices.Contains(tunnelKinds(), a.kind):
		return "tunnel (" + a.kind + ")"
	case a.kind == "macvtap" || a.kind == "ipvtap":
		return "belongs to a virtual machine"
	case slices.Contains([]string{"dummy", "ifb", "nlmon", "vrf", "vcan", "can"}, a.kind):
		return "no machine is behind it (" + a.kind + ")"
	case a.flags&net.FlagPointToPoint != 0:
		return "point-to-point (name its peers with --peer)"
	case a.flags&net.FlagMulticast == 0:
		return "no multicast (name its peers with --peer)"
	}
	return ""
}

// containers returns why only containers are to be expected on an interface, or "".
func (a adapter) containers() string {
	pair := func(kind string) bool { return kind == "veth" || kind == "netkit" }
	lan := func(kind string) bool {
		return !pair(kind) && kind != "dummy" && !slices.Contains(tunnelKinds(), kind)
	}
	switch {
	case pair(a.kind):
		return "leads to a container"
	case a.kind == "bridge" && !matchAny(guestBridgeNames(), a.name) && !slices.ContainsFunc(a.members, lan):
		return "bridge of containers"
	}
	return ""
}

// isCard says whether an interface is, or stands for, a connection of this machine to other machines.
func (a adapter) isCard() bool {
	return a.flags&net.FlagLoopback == 0 &&
		slices.Contains([]string{"", "device", "vlan", "bond", "team", "macvlan", "ipvlan", "ipoib"}, a.kind)
}

func containerNames() []string { return []string{"docker*", "podman*", "cni*", "nerdctl*"} }

// dockerBridge reports names that Docker gives to the bridges of networks: "br-" and 12 hexadecimal digits.
func dockerBridge(name string) bool {
	id, ok := strings.CutPrefix(name, "br-")
	return ok && len(id) == 12 && strings.Trim(id, "0123456789abcdef") == ""
}

func vpnNames() []string { return []string{"tailscale*", "zt*", "wg*", "nebula*", "utun*"} }

// guestBridgeNames are bridges of virtual machines, which are neighbours, even while none runs.
func guestBridgeNames() []string { return []string{"virbr*", "vmbr*", "microvm*"} }

// namesOfUnknownKind is what there is to go by on systems other than Linux, with Apple's own radio links among them.
func namesOfUnknownKind() []string {
	return []string{"br-*", "veth*", "tun*", "awdl*", "llw*", "anpi*", "gif*", "stf*"}
}

func tunnelKinds() []string {
	return []string{"tun", "wireguard", "amneziawg", "ovpn", "ovpn-dco", "ipip", "ip6tnl", "sit", "gre", "gretap", "ip6gre",
		"ip6gretap", "erspan", "ip6erspan", "vti", "vti6", "xfrm", "vxlan", "geneve", "l2tpeth", "bareudp", "fou", "gtp", "ppp", "wwan"}
}

func plainAdapters(ifis []net.Interface) []adapter {
	out := make([]adapter, len(ifis))
	for i, ifi := range ifis {
		out[i] = adapter{name: ifi.Name, index: ifi.Index, flags: ifi.Flags}
	}
	return out
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}
