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
	// placeFirst is how long Nix waits at most until the network and its remembered peers are known.
	placeFirst = 500 * time.Millisecond
	// saveAfter is how long after a change the memory is written.
	saveAfter = 5 * time.Second
)

// places finds out in which networks this machine is, and looks there for peers that multicast may not find: the
// Gateway, if it is a machine with narbor (a guest's host is), and the peers that were there before.
//
// A network is identified by the hardware address of its gateway and its prefix, never by the name that it gives
// itself. Without a gateway the prefix alone must do, and then it may be another network: an attacker there learns that
// a machine dials a few of its addresses at narbor's port, which multicast reveals as well, and cannot answer in
// another peer's place, because the ID is known. Link-local networks without a gateway are all alike, so no peer is
// remembered there.
//
// Owned by run.
type places struct {
	LAN     *LAN
	memory  *memory
	changed time.Time               // when the links did
	probed  map[netip.Addr]string   // gateways that were dialled since then, and their hardware addresses
	here    map[string]bool         // networks with peers recalled since then
	keys    map[netip.Prefix]string // keys of the networks of our links, as far as known
	noted   time.Time               // when all neighbours were last recorded; zero: record them now
	dirty   time.Time               // since when the memory differs from the file; zero: it does not
	failed  bool                    // it cannot be written, and that was logged
	dials   sync.WaitGroup
}

func newPlaces(l *LAN, m *memory) *places { return &places{LAN: l, memory: m} }

// run looks until ctx ends.
func (p *places) run(ctx context.Context) error {
	defer p.dials.Wait()
	first := sync.OnceFunc(p.LAN.Dialer.namedTried)
	defer first()
	p.moved(time.Now())
	for {
		now := time.Now()
		known := p.look(ctx, now)
		if known || now.Sub(p.changed) >= placeFirst {
			first()
		}
		p.meet(now)
		if !p.dirty.IsZero() && now.Sub(p.dirty) >= saveAfter {
			p.save()
		}
		select {
		case <-ctx.Done():
			if !p.dirty.IsZero() {
				p.save()
			}
			return nil
		case <-p.LAN.moved:
			p.moved(time.Now())
		case <-p.LAN.looked:
		case <-p.LAN.met:
		case <-time.After(p.rest(now, known)):
		}
	}
}

// rest returns how long places that send no notification need not be looked at.
func (p *places) rest(now time.Time, known bool) time.Duration {
	switch age := now.Sub(p.changed); {
	case !known && age < placeSoon+time.Second:
		return placeQuick
	case age < placeLate:
		return time.Second
	case !p.dirty.IsZero():
		return p.dirty.Add(saveAfter).Sub(now)
	}
	return memoRest
}

// moved begins anew: the links have changed.
func (p *places) moved(now time.Time) {
	p.changed, p.probed, p.here = now, map[netip.Addr]string{}, map[string]bool{}
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
	for _, k := range p.LAN.usedLinks() {
		of := slices.DeleteFunc(slices.Clone(gateways), func(g netmon.Gateway) bool { return g.Index != k.Interface.Index })
		for _, g := range of {
			if netmon.IsLinkLocal(g.Addr) { // as IPv6 routers announce themselves
				g.Addr = g.Addr.WithZone(k.Name)
			}
			p.probe(ctx, g)
		}
		for _, prefix := range k.Addrs {
			key, sure := networkKey(prefix.Masked(), of, now.Sub(p.changed) >= placeSoon)
			known = known && sure
			if key == "" {
				continue
			}
			p.keys[prefix.Masked()] = key
			p.recall(key, now)
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

// toProbe reports whether a gateway is to be dialled: once for each change of the links, or if another machine has
// taken its place; and only if it could be the host of a virtual machine, and not a provider's router.
func (p *places) toProbe(g netmon.Gateway) bool {
	mac, before := p.probed[g.Addr]
	p.probed[g.Addr] = cmp.Or(g.MAC, mac)
	if before && (mac == "" || g.MAC == "" || mac == g.MAC) {
		return false
	}
	private := g.Addr.IsPrivate() || g.Addr.IsLinkLocalUnicast()
	return private && p.LAN.Gate.IsNeighbour(g.Addr) && !p.LAN.isConnectedTo(g.Addr)
}

// probe dials a gateway at narbor's port, and no other.
func (p *places) probe(ctx context.Context, g netmon.Gateway) {
	if !p.toProbe(g) {
		return
	}
	l := p.LAN
	m, err := netmon.TCPAddr(g.Addr, defaultPort)
	if err != nil {
		return
	}
	p.dials.Go(func() {
		id, err := l.whoIs(ctx, []ma.Multiaddr{m})
		if err != nil || id == l.host.ID() {
			l.Log.Debug("no narbor at the gateway", zap.Stringer("addr", g.Addr), zap.Error(err))
			return
		}
		now := time.Now()
		l.Dialer.announce(announcement{id: id, addrs: []ma.Multiaddr{m}, expiry: now.Add(missFor), via: viaGateway}, now)
	})
}

// recall dials the peers that were in a network before.
func (p *places) recall(network string, now time.Time) {
	if p.here[network] {
		return
	}
	p.here[network] = true
	for _, m := range p.memory.in(network) {
		p.LAN.Hear(m, viaRemembered, now)
	}
}

// meet records the neighbours that are here: new ones at once, and now and then all.
func (p *places) meet(now time.Time) {
	if p.memory.file == "" {
		return
	}
	all := now.Sub(p.noted) >= memoRest
	if all {
		p.noted = now
	}
	for _, id := range p.LAN.friendsNow(all) {
		for _, a := range p.LAN.SeenAt(id) {
			m, err := netmon.PeerAddr(a, id)
			if err != nil {
				continue
			}
			for prefix, key := range p.keys {
				if prefix.Contains(a.Addr()) && p.memory.note(key, m, now) && p.dirty.IsZero() {
					p.dirty = now
				}
			}
		}
	}
}

func (p *places) save() {
	p.dirty = time.Time{}
	err := p.memory.save()
	if err != nil && !p.failed {
		p.LAN.Log.Warn("neighbours will not be remembered: the state directory cannot be written to", zap.Error(err))
	}
	p.failed = err != nil
}

func (l *LAN) usedLinks() []netmon.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return netmon.Used(l.links)
}

// befriend notes that a peer is a neighbour, or is one no longer: neighbours are remembered.
func (l *LAN) Befriend(id peer.ID, is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !is {
		delete(l.friends, id)
		return
	}
	l.friends[id] = true
	netmon.Hint(l.met)
}

// friendsNow returns all neighbours, or those that it has not returned before.
func (l *LAN) friendsNow(all bool) []peer.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]peer.ID, 0, len(l.friends))
	for id, fresh := range l.friends {
		if all || fresh {
			out = append(out, id)
			l.friends[id] = false
		}
	}
	return out
}
