package discovery

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/event"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

// Links are the network interfaces as they were seen last.
type Links struct {
	gate    *transport.Gater
	addrs   event.Emitter // tells libp2p that this machine's addresses have changed
	seen    func()        // the interfaces were looked at; nil is not told
	changes atomic.Int64

	mu  sync.Mutex // guards all
	all []netmon.Link
}

// Interfaces returns the network interfaces as they were seen last.
func (ls *Links) Interfaces() []netmon.InterfaceStatus {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	out := make([]netmon.InterfaceStatus, len(ls.all))
	for i, k := range ls.all {
		out[i] = k.InterfaceStatus
	}
	return out
}

// IsMetered says whether one of the interfaces costs money by the byte.
func (ls *Links) IsMetered() bool {
	return slices.ContainsFunc(ls.Interfaces(), func(i netmon.InterfaceStatus) bool { return i.Reason == netmon.Metered })
}

// Changes counts the changes of the links that are used, since the start.
func (ls *Links) Changes() int64 { return ls.changes.Load() }

func (ls *Links) used() []netmon.Link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return netmon.Used(ls.all)
}

// near returns the links that are used, and those that have lost their carrier: it may be back before TCP gives up.
func (ls *Links) near() []netmon.Link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ls.all), func(k netmon.Link) bool { return !k.Used && k.Reason != netmon.NoCarrier })
}

// Set notes the interfaces and reports whether one that is used has changed, and which are used anew.
func (ls *Links) Set(links []netmon.Link) (changed bool, fresh []netmon.Link) {
	ls.mu.Lock()
	before := netmon.Used(ls.all)
	ls.all = links
	ls.mu.Unlock()
	if ls.seen != nil {
		ls.seen()
	}
	now := netmon.Used(links)
	ls.gate.SetLinks(now)
	fresh = slices.DeleteFunc(slices.Clone(now), func(k netmon.Link) bool {
		return slices.ContainsFunc(before, func(o netmon.Link) bool { return k.Name == o.Name && k.Interface.Index == o.Interface.Index })
	})
	if changed = !slices.EqualFunc(before, now, netmon.Link.Same); changed {
		ls.addrs.Emit(event.EvtLocalAddressesUpdated{})
	}
	return changed, fresh
}
