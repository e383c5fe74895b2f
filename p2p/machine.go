package p2p

import (
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"narbor/p2p/netmon"
)

// A machine is the origin of questions. IP addresses cost nothing: one interface may have many IPv4 addresses, and 2^64
// IPv6 addresses. So all addresses that this machine's kernel knows to be at one link-layer address are one machine.
// Several machines look like one behind a Wi-Fi repeater that translates link-layer addresses; they share a ration.
type machine struct {
	mac     string       // "" is unknown
	network netip.Prefix // only if mac is unknown: one IPv4 address, or an IPv6 network of 64 bits
}

// rations are what machines may still ask, and what all of them together may.
type rations struct {
	gate  *gater
	whole *bucket // of misses

	mu   sync.Mutex // guards the rest
	each *lru.Cache[machine, *ration]
	seen *lru.Cache[netip.Addr, sighting]
}

// A sighting is where an address was.
type sighting struct {
	machine
	at time.Time
}

func newRations(gate *gater) *rations {
	each := newMemory[machine, *ration](maxMissAddrs)
	seen := newMemory[netip.Addr, sighting](maxMissAddrs)
	return &rations{gate: gate, whole: newBucket(missBurst+narMisses, missShares*missMachines), each: each, seen: seen}
}

// of returns the ration of the machine at an address.
func (r *rations) of(a netip.Addr) *ration {
	m := r.machineAt(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	own, ok := r.each.Get(m)
	if !ok {
		own = newRation(missShares)
		own.whole = r.whole
		r.each.Add(m, own)
	}
	return own
}

// machineAt returns the machine at an address. The kernel is asked again after a while, and not believed if it has
// forgotten a link-layer address that it knew.
func (r *rations) machineAt(a netip.Addr) machine {
	if real, err := r.gate.real(a); err == nil {
		a = real
	}
	r.mu.Lock()
	last, ok := r.seen.Get(a)
	r.mu.Unlock()
	if ok && time.Since(last.at) < machineFresh {
		return last.machine
	}
	m := last.machine
	if mac := r.macOf(a); mac != "" || !ok {
		m = machineOf(a, mac, r.gate.isVsock(a))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen.Add(a, sighting{m, time.Now()})
	return m
}

// macOf returns the link-layer address that has an IP address; "" is unknown.
func (r *rations) macOf(a netip.Addr) string {
	if !a.IsValid() || a.IsLoopback() || r.gate.isVsock(a) {
		return ""
	}
	return netmon.FindMAC(a)
}

// machineOf returns the machine that has an IP address. A guest that is connected by vsock is a machine of its own.
func machineOf(a netip.Addr, mac string, guest bool) machine {
	if mac != "" {
		return machine{mac: mac}
	}
	bits := a.BitLen()
	if a.Is6() && !a.IsLoopback() && !guest {
		bits = 64
	}
	return machine{network: netip.PrefixFrom(a.WithZone(""), bits).Masked()}
}
