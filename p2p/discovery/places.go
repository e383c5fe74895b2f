package discovery

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

const (
	// After the links have changed, gateways are looked at every placeQuick until the network is known, or placeSoon
	// has passed; then every second for a while, because a route may come late; and then whenever the interfaces are.
	placeQuick, placeSoon, placeLate = 50 * time.Millisecond, 5 * time.Second, 30 * time.Second
	// saveAfter is how long after a change the memory is written.
	saveAfter = 5 * time.Second
)

// places finds out in which networks this machine is, and looks there for peers that multicast may not find: the
// gateway, if it is a machine with narbor (a guest's host is), and the peers that were there before.
//
// A network is identified by the hardware address of its gateway and its prefix, never by the name that it gives
// itself. Without a gateway the prefix alone must do, and then it may be another network: an attacker there learns that
// a machine dials a few of its addresses at narbor's port, which multicast reveals as well, and cannot answer in
// another peer's place, because the ID is known. Link-local networks without a gateway are all alike, so no peer is
// remembered there.
//
// Owned by run, but for the channels and neighbours.
type places struct {
	dialer     *Dialer
	links      *Links
	neighbours neighbours
	memory     *memory
	moved      chan struct{} // the links have changed
	looked     chan struct{} // the interfaces have been looked at, maybe for a new route

	stay  stay
	keys  map[netip.Prefix]string // keys of the networks of our links, as far as known
	noted time.Time               // when all neighbours were last recorded; zero: record them now
	dials sync.WaitGroup
}

// A stay is the time since the links have changed last.
type stay struct {
	since    time.Time
	probed   map[netip.Addr]string // gateways that were dialled, and their hardware addresses
	recalled map[string]bool       // networks of which the peers were
}

func newPlaces(dialer *Dialer, links *Links, m *memory) *places {
	return &places{dialer: dialer, links: links, memory: m, moved: make(chan struct{}, 1), looked: make(chan struct{}, 1),
		neighbours: neighbours{joined: make(chan struct{}, 1), all: make(map[peer.ID]bool)}}
}

// run looks until ctx ends.
func (p *places) run(ctx context.Context) error {
	defer p.dials.Wait()
	first := sync.OnceFunc(p.dialer.namedTried)
	defer first()
	p.begin(time.Now())
	for {
		now := time.Now()
		known := p.look(ctx, now)
		if known || now.Sub(p.stay.since) >= placeFirst {
			first()
		}
		p.record(now)
		p.save(now.Add(-saveAfter))
		select {
		case <-ctx.Done():
			p.save(time.Now())
			return nil
		case <-p.moved:
			p.begin(time.Now())
		case <-p.looked:
		case <-p.neighbours.joined:
		case <-time.After(p.rest(now, known)):
		}
	}
}

// rest returns how long places that send no notification need not be looked at.
func (p *places) rest(now time.Time, known bool) time.Duration {
	switch age := now.Sub(p.stay.since); {
	case !known && age < placeSoon+time.Second:
		return placeQuick
	case age < placeLate:
		return time.Second
	case !p.memory.dirty.IsZero():
		return p.memory.dirty.Add(saveAfter).Sub(now)
	}
	return memoRest
}

// begin begins a stay: the links have changed.
func (p *places) begin(now time.Time) {
	p.stay = stay{now, map[netip.Addr]string{}, map[string]bool{}}
}

// look identifies the networks, dials gateways and recalls the peers that were here. It reports whether nothing more is
// to be found out soon.
func (p *places) look(ctx context.Context, now time.Time) (known bool) {
	gateways, err := netmon.Gateways()
	if err != nil {
		p.keys = nil
		return true
	}
	known = true
	before := p.keys
	p.keys = map[netip.Prefix]string{}
	for _, k := range p.links.used() {
		of := slices.DeleteFunc(slices.Clone(gateways), func(g netmon.Gateway) bool { return g.Index != k.Interface.Index })
		for _, g := range of {
			if netmon.IsLinkLocal(g.Addr) { // as IPv6 routers announce themselves
				g.Addr = g.Addr.WithZone(k.Name)
			}
			p.probe(ctx, g)
		}
		for _, prefix := range k.Addrs {
			key, sure := networkKey(prefix.Masked(), of, now.Sub(p.stay.since) >= placeSoon)
			known = known && sure
			if key == "" {
				continue
			}
			p.keys[prefix.Masked()] = key
			p.recall(key)
		}
	}
	if !maps.Equal(before, p.keys) {
		p.noted = time.Time{}
	}
	return known
}

// networkKey returns the key by which a network is remembered, and whether the key is final: as long as the hardware
// address of its gateway is not known, or a gateway may yet appear, the key is "".
func networkKey(prefix netip.Prefix, gateways []netmon.Gateway, patient bool) (key string, sure bool) {
	own := slices.DeleteFunc(slices.Clone(gateways), func(g netmon.Gateway) bool { return g.Addr.Is4() != prefix.Addr().Is4() })
	if len(own) == 0 {
		own = gateways // there is no gateway of the family of this prefix
	}
	if len(own) == 0 {
		if prefix.Addr().IsLinkLocalUnicast() {
			return "", true
		}
		if !patient {
			return "", false
		}
		return "- " + prefix.String(), true
	}
	mac := ""
	for _, g := range own {
		if g.MAC != "" && (mac == "" || g.MAC < mac) {
			mac = g.MAC
		}
	}
	if mac == "" {
		return "", patient
	}
	return mac + " " + prefix.String(), true
}

// noteProbe records that a gateway was considered, and reports whether it is to be dialled: once for each change of the
// links, or if another machine has taken its place; and only if it could be the host of a virtual machine, and not a
// provider's router.
func (p *places) noteProbe(g netmon.Gateway) bool {
	mac, before := p.stay.probed[g.Addr]
	p.stay.probed[g.Addr] = cmp.Or(g.MAC, mac)
	if before && (mac == "" || g.MAC == "" || mac == g.MAC) {
		return false
	}
	private := g.Addr.IsPrivate() || g.Addr.IsLinkLocalUnicast()
	return private && p.dialer.conns.Gate.IsNeighbour(g.Addr) && !p.dialer.conns.isConnectedTo(g.Addr)
}

// probe dials a gateway at narbor's port, and no other.
func (p *places) probe(ctx context.Context, g netmon.Gateway) {
	if !p.noteProbe(g) {
		return
	}
	m, err := netmon.TCPAddr(g.Addr, defaultPort)
	if err != nil {
		return
	}
	p.dials.Go(func() {
		id, err := p.dialer.conns.peerAt(ctx, []ma.Multiaddr{m})
		if err != nil || id == p.dialer.conns.host.ID() {
			p.dialer.conns.Log.Debug("no narbor at the gateway", zap.Stringer("addr", g.Addr), zap.Error(err))
			return
		}
		p.dialer.announce(announcement{id: id, addrs: []ma.Multiaddr{m}, expiry: time.Now().Add(missFor), via: viaGateway})
	})
}

// recall dials the peers that were in a network before.
func (p *places) recall(network string) {
	if p.stay.recalled[network] {
		return
	}
	p.stay.recalled[network] = true
	for _, m := range p.memory.in(network) {
		p.dialer.Hear(m, viaRemembered)
	}
}

// record remembers the neighbours that are here: new ones at once, and now and then all.
func (p *places) record(now time.Time) {
	if p.memory.file == "" {
		return
	}
	all := now.Sub(p.noted) >= memoRest
	if all {
		p.noted = now
	}
	for _, id := range p.neighbours.take(all) {
		for _, a := range p.dialer.conns.SeenAt(id) {
			m, err := netmon.PeerAddr(a, id)
			if err != nil {
				continue
			}
			for prefix, key := range p.keys {
				if prefix.Contains(a.Addr()) {
					p.memory.note(key, m, now)
				}
			}
		}
	}
}

// save writes the memory if it has differed from its file since a moment. The first of a row of failures is logged.
func (p *places) save(since time.Time) {
	if p.memory.dirty.IsZero() || p.memory.dirty.After(since) {
		return
	}
	failed := p.memory.failed
	if err := p.memory.save(); err != nil && !failed {
		p.dialer.conns.Log.Warn("neighbours will not be remembered: the state directory cannot be written to", zap.Error(err))
	}
}

// neighbours are the peers that are neighbours now, and whether places has recorded them.
type neighbours struct {
	joined chan struct{} // there is a new one

	mu  sync.Mutex // guards all
	all map[peer.ID]bool
}

// change notes that a peer is a neighbour, or is one no longer.
func (ns *neighbours) change(id peer.ID, is bool) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if !is {
		delete(ns.all, id)
		return
	}
	ns.all[id] = false
	netmon.Hint(ns.joined)
}

// take returns all neighbours, or those that it has not returned before.
func (ns *neighbours) take(all bool) []peer.ID {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	out := make([]peer.ID, 0, len(ns.all))
	for id, taken := range ns.all {
		if all || !taken {
			out = append(out, id)
			ns.all[id] = true
		}
	}
	return out
}
