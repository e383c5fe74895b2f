package netmon

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// pollInterfaces is how often the interfaces are looked at when nothing says that they changed. On Linux
	// the kernel says so; this is for a lost message, and for other systems.
	pollInterfaces = time.Minute
	// interfaceQuiet is how long the kernel must be silent before a change is acted on: one change of network
	// makes a handful of messages within milliseconds. interfacePatience bounds the wait when it never is.
	interfaceQuiet    = 150 * time.Millisecond
	interfacePatience = 500 * time.Millisecond
)

// InterfaceStatus says whether neighbours are looked for on a network interface, and if not, why not.
type InterfaceStatus struct {
	Name   string `json:"name"`
	Used   bool   `json:"used"`
	Reason string `json:"reason"` // why it is not used; "" if it is
}

// A Link is a network interface as it was at one moment.
type Link struct {
	InterfaceStatus
	Kind      string // as rtnetlink says: "veth", "bridge", …; "" if it is not known
	Interface net.Interface
	Addrs     []netip.Prefix // its usable addresses, each with the length of its network; sorted
}

// HasIPv6 reports whether the interface has an IPv6 address: the loopback has one as soon as the machine can have any.
func (l Link) HasIPv6() bool {
	return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// Same reports whether o would be announced just as l is.
func (l Link) Same(o Link) bool {
	return l.Name == o.Name && l.Interface.Index == o.Interface.Index && slices.Equal(l.Addrs, o.Addrs)
}

// Scan returns the interfaces as they are now, sorted by name.
func (p Policy) Scan() ([]Link, error) {
	ifis, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, adapters := interfaceAddrs(ifis), interfaceAdapters(ifis)
	metered := p.meter.names()
	links := make([]Link, 0, len(ifis))
	for i, ifi := range ifis {
		a := adapters[i]
		a.metered = metered[a.name]
		l := Link{InterfaceStatus: InterfaceStatus{Name: ifi.Name}, Kind: a.kind, Interface: ifi, Addrs: addrs[ifi.Index]}
		slices.SortFunc(l.Addrs, func(a, b netip.Prefix) int { return a.Compare(b) })
		l.Reason = p.refuse(a, slices.ContainsFunc(adapters, adapter.isCard))
		if l.Reason == "" && len(l.Addrs) == 0 {
			l.Reason = "no address"
		}
		l.Used = l.Reason == ""
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	return links, nil
}

// Interfaces returns this machine's network interfaces, and whether a node without further settings uses them.
func Interfaces() ([]InterfaceStatus, error) {
	policy, err := NewPolicy(nil, nil)
	if err != nil {
		return nil, err
	}
	links, err := policy.Scan()
	out := make([]InterfaceStatus, len(links))
	for i, l := range links {
		out[i] = l.InterfaceStatus
	}
	return out, err
}

// Watch calls changed with the current interfaces and again whenever they may have changed, or look requests
// it, always from the calling goroutine, until ctx ends.
func (p Policy) Watch(ctx context.Context, log *zap.Logger, look <-chan struct{}, changed func([]Link)) error {
	hints := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { subscribeInterfaces(ctx, log, hints) })
	watching.Go(func() { p.meter.follow(ctx, log, hints) })
	poll := time.NewTicker(pollInterfaces)
	defer poll.Stop()
	for {
		links, err := p.Scan()
		if err != nil {
			log.Warn("interfaces cannot be listed", zap.Error(err))
		} else {
			changed(links)
		}
		p.meter.look()
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		case <-look:
		case <-hints:
			settle(ctx, hints)
		}
	}
}

// settle returns once no hint has come for a while.
func settle(ctx context.Context, hints <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, interfacePatience)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hints:
		case <-time.After(interfaceQuiet):
			return
		}
	}
}

// Used returns those of the links that are used.
func Used(links []Link) []Link {
	return slices.DeleteFunc(slices.Clone(links), func(k Link) bool { return !k.Used })
}

// OnLink reports whether an address is in the network of one of the links.
func OnLink(links []Link, a netip.Addr) bool {
	if a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || IsLinkLocal(a) && a.Zone() == "" {
		return false
	}
	for _, l := range links {
		if a.Zone() != "" && a.Zone() != l.Name {
			continue
		}
		for _, p := range l.Addrs {
			if p.Contains(a.WithZone("")) {
				return true
			}
		}
	}
	return false
}
