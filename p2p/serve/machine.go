package serve

import (
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/store/lru"
)

// A machine is the origin of questions. IP addresses cost nothing: one interface may have many IPv4 addresses, and 2^64
// IPv6 addresses. So all addresses that this machine's kernel knows to be at one link-layer address are one machine.
// Several machines look like one behind a Wi-Fi repeater that translates link-layer addresses; they share a quota.
type machine struct {
	mac     string       // "" is unknown
	network netip.Prefix // only if mac is unknown: one IPv4 address, or an IPv6 network of 64 bits
}

// quotas are what peers and machines may still ask, and what all of them together may.
type quotas struct {
	at    func(netip.Addr) (real netip.Addr, guest bool) // see [Config]
	whole *bucket                                        // of misses
	files *rate.Limiter                                  // bounds how often all machines have the names of all paths read

	mu    sync.Mutex // guards the rest
	peers *lru.Cache[peer.ID, *peerQuota]
	each  *lru.Cache[machine, *quota]
	seen  *lru.Cache[netip.Addr, sighting]
}

// A sighting is where an address was.
type sighting struct {
	machine
	at time.Time
}

func newQuotas(at func(netip.Addr) (netip.Addr, bool)) *quotas {
	return &quotas{at: at, whole: newBucket(missBurst+narMisses, missShares*missMachines),
		files: rate.NewLimiter(fileRate*missShares*missMachines, fileBurst*missShares*missMachines),
		peers: lru.New[peer.ID, *peerQuota](peers.MaxTallies),
		each:  lru.New[machine, *quota](maxMissAddrs), seen: lru.New[netip.Addr, sighting](maxMissAddrs)}
}

// peer returns the quota of a peer that asks from an address.
func (q *quotas) peer(id peer.ID, from netip.Addr) *peerQuota {
	there := q.of(from)
	q.mu.Lock()
	defer q.mu.Unlock()
	p, ok := q.peers.Get(id)
	if !ok {
		p = newPeerQuota()
		q.peers.Add(id, p)
	}
	p.machine.Store(there)
	return p
}

// of returns the quota of the machine at an address.
func (q *quotas) of(a netip.Addr) *quota {
	m := q.machineAt(a)
	q.mu.Lock()
	defer q.mu.Unlock()
	own, ok := q.each.Get(m)
	if !ok {
		own = newQuota(missShares)
		own.whole = q.whole
		q.each.Add(m, own)
	}
	return own
}

// machineAt returns the machine at an address. The kernel is asked again after a while, and not believed if it has
// forgotten a link-layer address that it knew.
func (q *quotas) machineAt(a netip.Addr) machine {
	a, guest := q.at(a)
	q.mu.Lock()
	last, ok := q.seen.Get(a)
	q.mu.Unlock()
	if ok && time.Since(last.at) < machineFresh {
		return last.machine
	}
	m := last.machine
	if mac := macOf(a, guest); mac != "" || !ok {
		m = machineOf(a, mac, guest)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen.Add(a, sighting{m, time.Now()})
	return m
}

// macOf returns the link-layer address that has an IP address; "" is unknown.
func macOf(a netip.Addr, guest bool) string {
	if !a.IsValid() || a.IsLoopback() || guest {
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
