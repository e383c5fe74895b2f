package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
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

// Config has the identity of this node on the LAN and the peers to look for.
type Config struct {
	Host                            transport.Config   // of the libp2p host; a nil Log discards
	Peers, KernelPeers              []string           // multiaddr, IP address or DNS name, with or without a port
	PeersFile                       string             // keeps the added peers; "" is none
	MemoryFile                      string             // keeps the peers of each network; "" is none
	MDNS                            bool               // announce and browse
	Vsock                           bool               // reach host and guests by vsock, if there is one
	AllowInterfaces, DenyInterfaces []string           // patterns of path.Match
	Net                             *Net               // instead of this machine's
	Denies                          func(peer.ID) bool // peers with which there are no connections; nil is none
	Arrived                         func(netip.Addr)   // is told of connections that are let in; nil is not
	LinksLooked                     func()             // the links were looked at, and one may have become metered; nil is not
}

// How a neighbour was found.
const (
	viaNamed      = "named"
	viaKernel     = "kernel" // named on the kernel's command line
	viaMDNS       = "mdns"
	viaGateway    = "gateway"
	viaRemembered = "remembered" // from when this machine was in the same network before
	ViaExchange   = "exchange"   // a neighbour told
	viaVsock      = "vsock"      // it is this machine's host
	viaInbound    = "inbound"
)

// A LAN finds the machines around this one that announce themselves, and those that the user named, and stays
// connected to them. Whether a peer is of any use is for others to find out.
type LAN struct {
	Log        *zap.Logger
	host       host.Host
	addrs      event.Emitter // tells libp2p that this machine's addresses have changed
	Gate       *transport.Gater
	policy     netmon.Policy
	net        *Net // nil is this machine's
	added      *added
	renamed    chan struct{} // named may have changed
	reconsider func()        // what this machine does for others may have changed; nil is not told
	mdns       bool

	vsock, vsockFailed bool // whether vsock is to be looked for, and was there and of no use; owned by follow

	Dialer  *Dialer
	settled chan struct{}
	dead    chan network.Conn // to be closed by bury
	renewal *renewal
	Changes atomic.Int64 // of the links that are used, since the start
	Traffic mdns.Traffic

	places *places
	moved  chan struct{} // the links have changed
	looked chan struct{} // the interfaces have been looked at, maybe for a new route
	met    chan struct{} // there is a new friend

	mu      sync.Mutex // guards what follows
	links   []netmon.Link
	friends map[peer.ID]bool // neighbours, and whether they are news to places
	named   []*namedPeer
	viaName map[peer.ID]*namedPeer // peers that the user named, once their ID is known
}

// Check reports what can be seen to be wrong with the peers and the patterns of interfaces before anything starts. It looks
// up no name and no interface.
func (cfg Config) Check() error {
	_, err := parseNamed(cfg.Peers, fromFlag)
	_, perr := netmon.NewPolicy(cfg.AllowInterfaces, cfg.DenyInterfaces)
	return errors.Join(err, perr)
}

// New starts the host, which listens and accepts from now on, and nothing else. The caller must call Run,
// or close the host.
func New(cfg Config) (*LAN, error) {
	if cfg.Host.Log == nil {
		cfg.Host.Log = zap.NewNop()
	}
	if cfg.Net != nil {
		cfg.Host.Transport = cfg.Net.Transport
	}
	policy, err := netmon.NewPolicy(cfg.AllowInterfaces, cfg.DenyInterfaces)
	if err != nil {
		return nil, err
	}
	named, kept, err := allNamed(cfg, cfg.Host.Log)
	if err != nil {
		return nil, err
	}
	links, err := cfg.Net.links(policy)
	if err != nil {
		return nil, err
	}
	gate := transport.NewGater(cfg.Denies, cfg.Arrived)
	cfg.Host.Log = gate.PlainLog(cfg.Host.Log)
	h, err := transport.NewHost(cfg.Host, gate)
	if err != nil {
		return nil, fmt.Errorf("start libp2p: %w", err)
	}
	addrs, err := h.EventBus().Emitter(new(event.EvtLocalAddressesUpdated), eventbus.Stateful)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	l := &LAN{
		Log: cfg.Host.Log, host: h, addrs: addrs, Gate: gate, policy: policy, net: cfg.Net, named: named, added: kept,
		mdns:  cfg.MDNS,
		vsock: cfg.Vsock, reconsider: cfg.LinksLooked,
		renamed: make(chan struct{}, 1), moved: make(chan struct{}, 1), looked: make(chan struct{}, 1),
		met: make(chan struct{}, 1), friends: make(map[peer.ID]bool),
		settled: make(chan struct{}), dead: make(chan network.Conn, 64), renewal: newRenewal(), viaName: make(map[peer.ID]*namedPeer),
	}
	memory, err := loadMemory(cfg.MemoryFile, time.Now())
	if err != nil {
		cfg.Host.Log.Warn("who was where is forgotten: the memory of it cannot be read", zap.Error(err))
	}
	l.places = newPlaces(l, memory)
	l.Dialer = newKeeper(l)
	l.SetLinks(links)
	if l.net == nil && !slices.ContainsFunc(links, netmon.Link.HasIPv6) {
		l.Log.Warn("this machine has no IPv6: neighbours that have nothing else are out of reach")
	}
	return l, nil
}

// Host returns the libp2p host.
func (l *LAN) Host() host.Host { return l.host }

// Settled is closed when the first round of discovery is over and no further machine is expected soon. That is at most
// [settleLimit] after Run began.
func (l *LAN) Settled() <-chan struct{} { return l.settled }

// Interfaces returns the network interfaces as they were seen last.
func (l *LAN) Interfaces() []netmon.InterfaceStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]netmon.InterfaceStatus, len(l.links))
	for i, k := range l.links {
		out[i] = k.InterfaceStatus
	}
	return out
}

// isMetered says whether one of the interfaces costs money by the byte.
func (l *LAN) IsMetered() bool {
	return slices.ContainsFunc(l.Interfaces(), func(i netmon.InterfaceStatus) bool { return i.Reason == netmon.Metered })
}

// Via says how a peer was found: "named", "kernel", "mdns", "gateway", "remembered", "exchange", "vsock" or "inbound".
func (l *LAN) Via(p peer.ID) string {
	l.mu.Lock()
	named := l.viaName[p]
	l.mu.Unlock()
	if named != nil {
		return named.via()
	}
	return cmp.Or(l.Dialer.via(p), viaInbound)
}

// seek has a peer that is refused no more looked for at once, if it is known where.
func (l *LAN) Seek(p peer.ID) { l.Dialer.lose(p, time.Now()) }

// Run announces this machine, looks for others, and keeps connections to them, until ctx ends. It closes the host
// and returns when all that it started has ended.
func (l *LAN) Run(ctx context.Context) error {
	events := &network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { l.gained(c) },
		DisconnectedF: func(_ network.Network, c network.Conn) { l.lost(c.RemotePeer()) },
	}
	l.host.Network().Notify(events)
	defer l.host.Network().StopNotify(events)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.Dialer.run(ctx) })
	g.Go(func() error { return l.follow(ctx) })
	g.Go(func() error { return l.bury(ctx) })
	g.Go(func() error { return l.keepAllNamed(ctx) })
	g.Go(func() error { return l.probeSuspects(ctx) })
	if l.net == nil {
		g.Go(func() error { return netmon.WatchClocks(ctx, l.Log, l.renew) })
		g.Go(func() error { return l.places.run(ctx) })
	}
	err := g.Wait()
	return errors.Join(err, l.addrs.Close(), l.host.Close())
}

// follow announces this machine on every link there is, as links come and go.
func (l *LAN) follow(ctx context.Context) error {
	d := l.newMDNS()
	defer d.Close()
	if l.net != nil {
		l.Dialer.looked(true, time.Now())
		return l.net.follow(ctx, func(e *zeroconf.ServiceEntry) { d.Take(e, netip.Addr{}) })
	}
	return netmon.Watch(ctx, l.policy, l.Log, l.renewal.look, func(links []netmon.Link) {
		stale := l.renewal.stale.Swap(false)
		changed, fresh := l.SetLinks(links)
		l.lookForVsock()
		if stale {
			d.Stop()
		}
		if l.mdns {
			d.Update(ctx, links)
		}
		l.Dialer.looked(len(netmon.Used(links)) > 0, time.Now())
		netmon.Hint(l.looked)
		if changed {
			l.Changes.Add(1)
			l.closeOrphans()
			l.renewal.suspect(l.connsAt(fresh))
		}
		if stale {
			l.renewal.suspect(l.host.Network().Conns())
		}
		if changed || stale {
			l.Dialer.linksChanged(time.Now())
			netmon.Hint(l.moved)
			for _, n := range l.namedNow() {
				netmon.Hint(n.hurry)
			}
		}
	})
}

// newMDNS returns a service that announces this machine and reports others to the keeper.
func (l *LAN) newMDNS() *mdns.Service {
	return mdns.New(mdns.Config{Self: l.host.ID(), Port: transport.ListenPort(l.host), IsNeighbour: l.Gate.IsNeighbour,
		Strangers: func() bool { return l.Dialer.circle.strangers.Load() > 0 }, Traffic: &l.Traffic, Log: l.Log,
		Found: func(a mdns.Announcement) {
			l.Dialer.announce(announcement{id: a.ID, addrs: a.Addrs, expiry: a.Expiry, via: viaMDNS}, time.Now())
		}})
}

// setLinks notes the interfaces and reports whether one that is used has changed, and which are used anew.
func (l *LAN) SetLinks(links []netmon.Link) (changed bool, fresh []netmon.Link) {
	l.mu.Lock()
	before := netmon.Used(l.links)
	l.links = links
	l.mu.Unlock()
	if l.reconsider != nil {
		l.reconsider() // a link may have become metered
	}
	now := netmon.Used(links)
	l.Gate.SetLinks(now)
	fresh = slices.DeleteFunc(slices.Clone(now), func(k netmon.Link) bool {
		return slices.ContainsFunc(before, func(o netmon.Link) bool { return k.Name == o.Name && k.Interface.Index == o.Interface.Index })
	})
	if changed = !slices.EqualFunc(before, now, netmon.Link.Same); changed {
		l.addrs.Emit(event.EvtLocalAddressesUpdated{})
	}
	return changed, fresh
}

// closeOrphans closes connections from addresses that are no longer this machine's, and those to addresses that are on
// none of its links any more, unless the user has named the peer. TCP would take long to notice, and meanwhile we would
// take their peers for connected. A link that has lost its carrier still counts: it may be back before TCP gives up.
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
	l.mu.Lock()
	near := slices.DeleteFunc(slices.Clone(l.links), func(k netmon.Link) bool { return !k.Used && k.Reason != netmon.NoCarrier })
	l.mu.Unlock()
	for _, c := range l.host.Network().Conns() {
		if l.isOrphan(c, own, near) {
			l.discard(c)
		}
	}
}

// isOrphan reports whether the other end of a connection is out of reach, if these are this machine's addresses and links.
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
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.viaName[c.RemotePeer()] == nil
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

// lost is called by libp2p for each connection that ends.
func (l *LAN) lost(p peer.ID) {
	if l.connected(p) {
		return // there was another one
	}
	l.Dialer.lose(p, time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.viaName[p]; n != nil {
		netmon.Hint(n.lost)
	}
}
