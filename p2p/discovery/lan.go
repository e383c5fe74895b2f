package discovery

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/zeroconf/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"narbor/p2p/mdns"
	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

// A LAN finds the machines around this one that announce themselves, and those that the user named, and stays
// connected to them. Whether a peer is of any use is decided elsewhere.
type LAN struct {
	*Conns
	*Links
	Dialer  *Dialer
	Traffic mdns.Traffic // counts the packets of multicast DNS

	cfg      Config
	policy   netmon.Policy
	added    *added
	places   *places
	liveness *liveness
	search   *srvSearch    // nil if name servers are not asked
	look     chan struct{} // the interfaces are to be looked at
	resumed  atomic.Bool   // and announced on even if they are as before
}

// New starts a host, which listens and accepts from now on, and nothing else. A host without a Log logs nothing. The
// caller must call Run, or close the host.
func New(cfg Config, host transport.Config, hooks Hooks) (*LAN, error) {
	if host.Log == nil {
		host.Log = zap.NewNop()
	}
	if cfg.Net != nil {
		host.Transport = cfg.Net.Transport
	}
	policy, err := netmon.NewPolicy(cfg.AllowInterfaces, cfg.DenyInterfaces)
	if err != nil {
		return nil, err
	}
	named, texts, err := allNamed(cfg, host.Log)
	if err != nil {
		return nil, err
	}
	links, err := cfg.Net.links(policy)
	if err != nil {
		return nil, err
	}
	l := &LAN{cfg: cfg, policy: policy, look: make(chan struct{}, 1)}
	if l.Conns, err = newConns(host, hooks, l.lost); err != nil {
		return nil, err
	}
	addrs, err := l.host.EventBus().Emitter(new(event.EvtLocalAddressesUpdated), eventbus.Stateful)
	if err != nil {
		return nil, errors.Join(err, l.host.Close())
	}
	memory, err := loadMemory(cfg.MemoryFile, time.Now())
	if err != nil {
		l.Log.Warn("the peers of known networks are forgotten: their file cannot be read", zap.Error(err))
	}
	l.Links = &Links{gate: l.Gate, addrs: addrs, seen: hooks.LinksLooked}
	for _, n := range named {
		n.first = true
	}
	kept, first := 0, firstLook{untried: len(named), mdns: cfg.MDNS}
	if cfg.Net == nil {
		first.untried++ // the remembered peers count as one that is named
	} else {
		kept = cfg.Net.Kept
	}
	l.Dialer = newDialer(l.Conns, kept, first)
	l.places = newPlaces(l.Dialer, l.Links, memory)
	l.liveness = newLiveness(l.Conns)
	l.added = &added{named: newNamedPeers(l.Conns, named, l.Dialer.namedTried), file: cfg.PeersFile, texts: texts}
	if cfg.DNSSD && cfg.Net == nil {
		l.search = newSRVSearch(l.added, l.Log)
	}
	l.Links.Set(links)
	if cfg.Net == nil && !slices.ContainsFunc(links, netmon.Link.HasIPv6) {
		l.Log.Warn("this machine has no IPv6: neighbours that have nothing else are out of reach")
	}
	return l, nil
}

// Settled is closed when the first round of discovery is over and no further machine is expected soon. That is at most
// [settleLimit] after Run began.
func (l *LAN) Settled() <-chan struct{} { return l.Dialer.settled }

// Via says how a peer was found: "named", "kernel", "dns-sd", "mdns", "gateway", "remembered", "exchange", "vsock" or
// "inbound".
func (l *LAN) Via(p peer.ID) string {
	if named := l.added.named.of(p); named != nil {
		return named.via()
	}
	return cmp.Or(l.Dialer.via(p), viaInbound)
}

// Seek dials a peer at once, if an address of it is known: it was refused before, and no longer is.
func (l *LAN) Seek(p peer.ID) { l.Dialer.lose(p) }

// Run announces this machine, looks for others, and keeps connections to them, until ctx ends. It closes the host
// and returns when all that it started has ended.
func (l *LAN) Run(ctx context.Context) error {
	events := &network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { l.gained(c) },
		DisconnectedF: func(_ network.Network, c network.Conn) { l.lost(c.RemotePeer()) },
	}
	l.host.Network().Notify(events)
	defer l.host.Network().StopNotify(events)
	for _, c := range l.host.Network().Conns() {
		l.gained(c) // the host listens since before Run
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.Dialer.run(ctx) })
	g.Go(func() error { return l.follow(ctx) })
	g.Go(func() error { return l.bury(ctx) })
	g.Go(func() error { return l.added.named.run(ctx) })
	g.Go(func() error { return l.liveness.run(ctx) })
	if l.search != nil {
		g.Go(func() error { return l.search.run(ctx) })
	}
	if l.cfg.Net == nil {
		g.Go(func() error { return netmon.WatchClocks(ctx, l.Log, l.resume) })
		g.Go(func() error { return l.places.run(ctx) })
	}
	err := g.Wait()
	return errors.Join(err, l.addrs.Close(), l.host.Close())
}

// resume renews the state that may be stale after the machine has slept: it scans the interfaces, announces this
// machine and probes the neighbours.
func (l *LAN) resume() {
	l.resumed.Store(true)
	netmon.Hint(l.look)
}

// follow announces this machine on every link that is used, and follows the changes of links.
func (l *LAN) follow(ctx context.Context) error {
	d := l.newMDNS()
	defer d.Close()
	if l.cfg.Net != nil {
		l.linksLooked(true)
		return l.cfg.Net.follow(ctx, func(e *zeroconf.ServiceEntry) { d.Take(e, netip.Addr{}) })
	}
	vsock := vsockSearch{conns: l.Conns, added: l.added, wanted: l.cfg.Vsock}
	return l.policy.Watch(ctx, l.Log, l.look, func(links []netmon.Link) {
		resumed := l.resumed.Swap(false)
		changed, fresh := l.Links.Set(links)
		vsock.look()
		if resumed {
			d.Stop()
		}
		if l.cfg.MDNS {
			d.Update(ctx, links)
		}
		l.linksLooked(len(netmon.Used(links)) > 0)
		netmon.Hint(l.places.looked)
		if changed {
			l.Links.changes.Add(1)
			l.closeOrphans()
			l.liveness.suspect(l.connsAt(fresh))
		}
		if resumed {
			l.liveness.suspect(l.host.Network().Conns())
		}
		if changed || resumed {
			l.Dialer.change(func(c *candidates) { c.linksChanged(time.Now()) })
			netmon.Hint(l.places.moved)
			l.search.hint()
			for _, n := range l.added.named.now() {
				netmon.Hint(n.hurry)
			}
		}
	})
}

func (l *LAN) linksLooked(up bool) {
	l.Dialer.change(func(c *candidates) { c.looked(up, time.Now()) })
}

// newMDNS returns a service that announces this machine and reports others to the dialer.
func (l *LAN) newMDNS() *mdns.Service {
	return mdns.New(mdns.Config{Self: l.host.ID(), Port: transport.ListenPort(l.host), IsNeighbour: l.Gate.IsNeighbour,
		NonNeighbours: l.Dialer.hasNonNeighbours, Traffic: &l.Traffic, Log: l.Log,
		Found: func(a mdns.Announcement) {
			l.Dialer.announce(announcement{id: a.ID, addrs: a.Addrs, expiry: a.Expiry, via: viaMDNS})
		}})
}

// closeOrphans closes connections from addresses that are no longer this machine's, and those to addresses that are on
// none of its links any more, unless the user has named the peer. TCP would take long to notice, and meanwhile we would
// take their peers for connected.
func (l *LAN) closeOrphans() {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	own := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if p, ok := netmon.PrefixOf(n); ok {
				own[p.Addr()] = true
			}
		}
	}
	near := l.Links.near()
	for _, c := range l.host.Network().Conns() {
		if l.isOrphan(c, own, near) {
			l.discard(c)
		}
	}
}

// isOrphan reports whether the other end of a connection is out of reach, if these are this machine's addresses and
// links.
func (l *LAN) isOrphan(c network.Conn, own map[netip.Addr]bool, near []netmon.Link) bool {
	a, ok := netmon.IPOf(c.LocalMultiaddr())
	return ok && !own[a.WithZone("")] && !l.Gate.IsVsock(a) || l.isOffLink(c, near)
}

// isOffLink reports whether the other end of a connection is on none of these links, and of no peer that was named.
func (l *LAN) isOffLink(c network.Conn, links []netmon.Link) bool {
	a, ok := netmon.IPOf(c.RemoteMultiaddr())
	if !ok || l.Gate.MayAccept(a) || netmon.OnLink(links, a) {
		return false
	}
	return l.added.named.of(c.RemotePeer()) == nil
}

// gained is called by libp2p for each new connection. If the peer has moved to another address of the same network,
// its old connections are dead, but TCP would not know for a while.
func (l *LAN) gained(c network.Conn) {
	if err := l.Gate.Watch(c); err != nil {
		l.Log.Debug("connection not watched by the kernel", zap.Stringer("peer", c.RemotePeer()), zap.Error(err))
	}
	now, ok := netmon.IPOf(c.RemoteMultiaddr())
	if !ok {
		return
	}
	for _, old := range l.host.Network().ConnsToPeer(c.RemotePeer()) {
		was, ok := netmon.IPOf(old.RemoteMultiaddr())
		if ok && l.Gate.Moved(was, now) && outlived(time.Since(old.Stat().Opened)) {
			l.discard(old)
		}
	}
}

// outlived reports whether a connection of this age may be given up for a newer one. Young ones are left alone: two
// machines that dial each other at once could otherwise each close the connection that the other one keeps.
func outlived(age time.Duration) bool { return age > steady/2 }

// lost is called by libp2p for each connection that ends.
func (l *LAN) lost(p peer.ID) {
	if l.connected(p) {
		return // there was another one
	}
	l.Dialer.lose(p)
	if n := l.added.named.of(p); n != nil {
		netmon.Hint(n.lost)
	}
}

// NeighbourChanged notes that a peer is a neighbour, or is one no longer: neighbours are remembered.
func (l *LAN) NeighbourChanged(id peer.ID, is bool) { l.places.neighbours.change(id, is) }

// AddPeer looks for a peer from now on, and after each restart. It returns an error if text is no peer, if there are
// too many, or if it cannot be kept; then it is not added. Adding it again does nothing.
func (l *LAN) AddPeer(text string) error { return l.added.add(text) }

// RemovePeer ends what AddPeer began, and closes the connections to the peers found there. It returns an error if no
// such peer was added.
func (l *LAN) RemovePeer(text string) error { return l.added.remove(text) }

// NamedPeers returns the peers that the user named, in the order in which they were given.
func (l *LAN) NamedPeers() []NamedPeer { return l.added.named.report() }
