package netmon

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// resubscribe is the pause after the kernel ended a subscription, or refused one.
const resubscribe = 2 * time.Second

// unusableAddr marks IPv6 addresses that are not yet, or no longer, this machine's own: it could not be reached there.
const unusableAddr = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED

// interfaceAddrs returns the usable addresses of each interface, by its index.
func interfaceAddrs(ifis []net.Interface) map[int][]netip.Prefix {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return plainInterfaceAddrs(ifis)
	}
	out := make(map[int][]netip.Prefix, len(ifis))
	for _, a := range addrs {
		if a.Flags&unusableAddr != 0 || a.IPNet == nil {
			continue
		}
		if p, ok := PrefixOf(a.IPNet); ok {
			out[a.LinkIndex] = append(out[a.LinkIndex], p)
		}
	}
	for index, prefixes := range out {
		widenHostPrefixes(index, prefixes)
	}
	return out
}

// widenHostPrefixes gives addresses that came from DHCPv6, which knows no prefix lengths, the length of the route to
// their network.
func widenHostPrefixes(index int, prefixes []netip.Prefix) {
	alone := func(p netip.Prefix) bool { return p.Addr().Is6() && p.Bits() == 128 }
	if !slices.ContainsFunc(prefixes, alone) {
		return
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6,
		&netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return
	}
	for i, p := range prefixes {
		if !alone(p) {
			continue
		}
		bits := 0
		for _, r := range routes {
			if r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0 || r.Dst == nil || r.Type != unix.RTN_UNICAST {
				continue
			}
			if n, ok := PrefixOf(r.Dst); ok && n.Contains(p.Addr()) && n.Bits() < 128 {
				bits = max(bits, n.Bits())
			}
		}
		if bits > 0 {
			prefixes[i] = netip.PrefixFrom(p.Addr(), bits)
		}
	}
}

// interfaceAdapters returns what each interface is, in the order of ifis.
func interfaceAdapters(ifis []net.Interface) []adapter {
	links, err := netlink.LinkList()
	if err != nil {
		return plainAdapters(ifis)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	out := plainAdapters(ifis)
	for i, ifi := range ifis {
		l := byIndex[ifi.Index]
		if l == nil {
			continue
		}
		out[i].kind = kindOf(l)
		if m := byIndex[l.Attrs().MasterIndex]; m != nil && m.Type() != "vrf" { // a member of a VRF keeps its addresses
			out[i].master = m.Attrs().Name
		}
	}
	markBridges(out)
	return out
}

func kindOf(l netlink.Link) string {
	if t, ok := l.(*netlink.Tuntap); ok && t.Mode == netlink.TUNTAP_MODE_TAP {
		return "tap"
	} else if ok {
		return "tun"
	}
	return l.Type()
}

// markBridges fills in the fields for bridges and veth pairs only: members, and the route to the internet.
func markBridges(adapters []adapter) {
	var routes []int
	for i := range adapters {
		a := &adapters[i]
		if a.containers() == "" {
			continue
		}
		for _, m := range adapters {
			if a.kind == "bridge" && m.master == a.name {
				a.members = append(a.members, m.kind)
			}
		}
		if routes == nil {
			routes = append(wayOut(), 0)
		}
		a.route = slices.Contains(routes, a.index)
	}
}

// wayOut returns the indices of the interfaces through which the kernel would send packets to the internet. Nothing is
// sent there, and of a router's million routes only one is read.
func wayOut() (indices []int) {
	for _, ip := range []string{"1.1.1.1", "2606:4700:4700::1111"} {
		routes, err := netlink.RouteGet(net.ParseIP(ip))
		if err != nil {
			continue // there is no way
		}
		for _, r := range routes {
			indices = append(indices, r.LinkIndex)
		}
	}
	return indices
}

// subscribeInterfaces gives a hint for every message of the kernel about an interface, an address or a route nearby,
// and subscribes again when a subscription ends.
func subscribeInterfaces(ctx context.Context, log *zap.Logger, hints chan<- struct{}) {
	for ctx.Err() == nil {
		if err := followInterfaces(ctx, hints); err != nil {
			log.Debug("netlink subscription ended", zap.Error(err))
		}
		Hint(hints) // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(resubscribe):
		}
	}
}

func followInterfaces(ctx context.Context, hints chan<- struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	addrs := make(chan netlink.AddrUpdate)
	err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: cancel})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait() // each loop ends when its channel is closed, soon after ctx
	wg.Go(func() {
		for range addrs {
			Hint(hints)
		}
		cancel(nil)
	})
	links := make(chan netlink.LinkUpdate)
	err = netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: cancel})
	if err != nil {
		cancel(err)
		return err
	}
	wg.Go(func() {
		for range links {
			Hint(hints)
		}
		cancel(nil)
	})
	routes := make(chan netlink.RouteUpdate)
	err = netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{
		ErrorCallback: func(error) { Hint(hints) }}) // it goes on after routes that it cannot read; else the channel is closed
	if err != nil {
		cancel(err)
		return err
	}
	wg.Go(func() {
		for r := range routes {
			if isNear(r.Route) {
				Hint(hints)
			}
		}
		cancel(nil)
	})
	<-ctx.Done()
	return context.Cause(ctx)
}

// isNear reports whether a route describes our links, see [widenHostPrefixes], or is the default route. A router may
// learn thousands of others in a minute.
func isNear(r netlink.Route) bool {
	if r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, bits := r.Dst.Mask.Size()
	return ones == 0 || bits == 128 && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
}
