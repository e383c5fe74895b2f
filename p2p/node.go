package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"narbor/p2p/discovery"
	"narbor/p2p/fetch"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/upstream"
	"narbor/trust"
)

// Config has the identity of this node, the sources that it shares, and the keys that it trusts.
type Config struct {
	Identity crypto.PrivKey // required
	Port     uint16         // TCP, all addresses; 0 picks one
	Peers    []string       // named by the user: multiaddr, IP or DNS name, with or without port
	// KernelPeers are as Peers, from the kernel's command line; invalid ones are logged and left out.
	KernelPeers []string
	MemoryFile  string // keeps the peers of each network, to be looked for there again; "" is none
	PeersFile   string // keeps the peers added by [Node.AddPeer] across restarts; "" is none
	MDNS        bool   // find neighbours by multicast DNS
	Vsock       bool   // reach the host that this machine is a guest of, and be reached by guests, by vsock, where there is one
	// AllowInterfaces and DenyInterfaces are patterns of interface names; none allowed is the default policy.
	AllowInterfaces, DenyInterfaces []string
	Version                         string         // told to neighbours
	Net                             *discovery.Net // in place of this machine's network; nil in all but tests

	// Upstreams are the caches on the internet that are asked, in order, for what no neighbour has; none asks nothing.
	// The caller of New closes them, after Run.
	Upstreams []*upstream.Cache
	// NoCooperate asks the upstreams for this machine alone, and no neighbour to ask its own. UpstreamBudget is how many
	// bytes of NARs a day are fetched for neighbours, for one address half of what others leave; 0 is [DefaultBudget].
	NoCooperate    bool
	UpstreamBudget int64
	// PowerSupplies is [PowerSupplies], by which a machine that runs on battery is known; "" takes it for one on mains.
	PowerSupplies string

	Share []store.Source // asked in order for what neighbours want, and then the spool; none shares nothing
	// GroupSecret, of at least 16 bytes: peers that do not know it neither ask nor are asked; nil is no group.
	GroupSecret []byte
	ShareOff    bool         // share nothing until [Node.Share] turns it on
	UploadRate  int64        // bytes of blocks, as they go over the wire, that are sent in a second; 0 is no limit
	Trusted     *trust.Keys  // verify claims
	ShareKeys   *trust.Keys  // a path is shared only if one of these has signed it
	Spool       *spool.Spool // where fetched NARs go
	Denied      string       // file that keeps the peers across restarts that are banned, or refused by [Node.Block]; "" is none
	Manifests   string       // directory that keeps manifests across restarts; "" is none
	Observer    Observer     // is told of each block that passes; nil is none
	Log         *zap.Logger  // nil discards
	Libp2pLog   slog.Handler // for libp2p's own messages, of the whole process; nil discards
}

// An Observer is called for each block of a NAR that passes between this node and its neighbours; it gets their IDs as
// text. It is called from many goroutines at once, while transfers wait: it must return at once.
type Observer interface {
	// Received is told of n bytes that the mapping's NAR may consist of: it is not verified yet.
	Received(o store.Origin, m trust.Mapping, from string, n int)
	// Sent is told of n bytes of a path's NAR of that size.
	Sent(path store.Path, size int64, to string, n int)
	// Landed is told that a NAR is in the spool that was fetched for neighbours alone, or with an error that it is not.
	Landed(m trust.Mapping, err error)
}

// nobody is the Observer that does nothing.
type nobody struct{}

func (nobody) Received(store.Origin, trust.Mapping, string, int) {}
func (nobody) Sent(store.Path, int64, string, int)               {}
func (nobody) Landed(trust.Mapping, error)                       {}

// A Node is this machine among its neighbours. Its methods may be called concurrently, and before and after Run,
// when there are no neighbours.
type Node struct {
	cfg        Config
	log        *zap.Logger
	lan        *discovery.LAN
	neighbours *neighbourSet
	ledger     *peers.Ledger
	members    *members
	server     *serve.Server
	lookups    *lookups
	secrets    *secrets
	upstreams  *upstreams
	downloads  *downloads
	proxy      *proxy
	wanted     *lru.Cache[store.HashPart, time.Time] // what no neighbour had, and when
	dialBacks  *dialBacks                            // rations connections that neighbours ask for
	background *background

	news       chan struct{} // a neighbour has joined; read by exchangePeers
	reconsider chan struct{} // what this machine does for others may have changed; read by watch
	settled    chan struct{}
}

// New makes a node that listens for connections but neither looks for neighbours nor answers them until Run.
func New(cfg Config) (*Node, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	book := peers.NewLedger(cfg.Denied, cfg.Log)
	reconsider, dials := make(chan struct{}, 1), newDialBacks()
	l, err := discovery.New(discovery.Config{Host: cfg.host(), Peers: cfg.Peers, KernelPeers: cfg.KernelPeers, PeersFile: cfg.PeersFile,
		MemoryFile: cfg.MemoryFile, MDNS: cfg.MDNS, AllowInterfaces: cfg.AllowInterfaces, DenyInterfaces: cfg.DenyInterfaces,
		Vsock: cfg.Vsock, Net: cfg.Net, Denies: book.Denies, Arrived: dials.arrivals.note,
		LinksLooked: func() { netmon.Hint(reconsider) }})
	if err != nil {
		return nil, err
	}
	cfg.Log = l.Log // which has no stand-ins
	circle, err := peers.NewGroup(cfg.GroupSecret, l.Host(), cfg.Log)
	if err != nil {
		return nil, errors.Join(err, l.Host().Close())
	}
	book.Log, book.CloseAll = cfg.Log, l.CloseAll
	around, back := newNeighbourSet(), newBackground()
	n := &Node{
		cfg: cfg, log: cfg.Log, lan: l, neighbours: around, ledger: book, background: back,
		members:    &members{circle, book, l, back, make(chan peer.ID), cfg.Log},
		lookups:    newLookups(around, book, cfg.Trusted, cfg.Log),
		secrets:    newSecrets(cfg),
		upstreams:  &upstreams{caches: cfg.Upstreams, trusted: cfg.Trusted, log: cfg.Log},
		wanted:     peers.NewCache[store.HashPart, time.Time](maxWanted),
		dialBacks:  dials,
		news:       make(chan struct{}, 1),
		reconsider: reconsider,
		settled:    make(chan struct{}),
	}
	n.connect()
	n.Share(!cfg.ShareOff)
	return n, nil
}

// connect creates downloads, server and proxy, and gives each of them the others that it calls.
func (n *Node) connect() {
	cfg := n.cfg
	n.downloads = &downloads{fetched: newFetched(cfg.Spool), lookups: n.lookups, secrets: n.secrets, observer: cfg.Observer,
		received: map[store.Origin]*atomic.Int64{}}
	for _, o := range store.Origins() {
		n.downloads.received[o] = new(atomic.Int64)
	}
	n.lookups.sinceAck = n.lan.Gate.SinceAck
	n.proxy = &proxy{cooperates: !cfg.NoCooperate, upstreams: n.upstreams, protocol: signOf(cfg.Upstreams), neighbours: n.neighbours,
		secrets: n.secrets, downloads: n.downloads, jobs: newProxyDownloads(cmp.Or(cfg.UpstreamBudget, DefaultBudget)),
		background: n.background, host: n.lan.Host(), metered: n.lan.IsMetered, power: &netmon.Power{Dir: cfg.PowerSupplies}}
	n.downloads.deps = &fetch.Deps{Self: n.lan.Host().ID(), Swarm: nodeSwarm{n.lookups, n.proxy},
		Conduct:   conduct{n.neighbours, n.ledger, n.background, n.log},
		Upstreams: cfg.Upstreams, Throughput: &n.upstreams.throughput, Received: n.downloads.count, Log: n.log}
	serving := serve.Config{Sources: cfg.Share, Keys: cfg.ShareKeys, UploadRate: cfg.UploadRate, Ledger: n.ledger,
		Links: n.lan.Gate, Log: n.log, Origin: n.lan.Gate.Origin, Admits: n.members.Has, Meet: n.proxy.meet, Sent: cfg.Observer.Sent,
		Proxy: n.proxy}
	if len(cfg.Share) > 0 {
		serving.Arriving = n.downloads
	}
	n.server = serve.New(serving)
	n.proxy.server, n.downloads.server = n.server, n.server
}

// Share turns sharing on or off at once, also for transfers that are under way: they end with the block that is being
// sent. A node without sources shares nothing anyway.
func (n *Node) Share(on bool) {
	n.server.Share(on)
	netmon.Hint(n.reconsider)
}

// Sharing says whether sharing is on.
func (n *Node) Sharing() bool { return n.server.Sharing() }

// Run looks for neighbours, answers them, and keeps in touch, until ctx ends; then it closes all connections, and
// returns once nothing of it runs any more. It is called once.
func (n *Node) Run(ctx context.Context) error {
	bus := n.lan.Host().EventBus()
	sub, err := bus.Subscribe([]any{new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerProtocolsUpdated),
		new(event.EvtPeerConnectednessChanged)}, eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("libp2p events: %w", err)
	}
	if n.cfg.Manifests != "" {
		if err := n.server.KeepManifests(n.cfg.Manifests); err != nil {
			n.log.Warn("manifests are not kept", zap.Error(err))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	n.handleStreams(ctx, n.members.Protocol(), n.server.Serve)
	if n.members.Group != nil {
		n.handleStreams(ctx, peers.GroupProtocol, n.members.serve)
	}
	n.proxy.advertise()
	n.handleStreams(ctx, peersProtocol, n.servePeers)
	n.handleStreams(ctx, dialBackProtocol, n.serveDialBack)
	g.Go(func() error { return n.lan.Run(ctx) })
	g.Go(func() error { return n.exchangePeers(ctx) })
	g.Go(func() error { return n.ledger.Run(ctx) })
	g.Go(func() error { return n.server.Run(ctx) })
	g.Go(func() error {
		defer sub.Close()
		n.watch(ctx, sub.Out())
		return nil
	})
	err = g.Wait()
	n.background.end()
	n.server.Close()
	return err
}

func (n *Node) handleStreams(ctx context.Context, p protocol.ID, serve func(context.Context, network.Stream)) {
	n.lan.Host().SetStreamHandler(p, func(s network.Stream) {
		if !n.background.begin() {
			s.Reset()
			return
		}
		defer n.background.running.Done()
		serve(ctx, s)
	})
}

// watch keeps the list of neighbours.
func (n *Node) watch(ctx context.Context, events <-chan any) {
	defer func() {
		for _, nb := range n.neighbours.all() {
			n.neighbours.remove(nb.ID)
			nb.Leave()
		}
	}()
	settled, last := n.lan.Settled(), (<-chan time.Time)(nil)
	for {
		select {
		case e := <-events:
			n.handle(ctx, e)
		case <-n.reconsider:
			n.proxy.advertise()
		case <-settled:
			if len(events) == 0 { // the peers that were found are in the list
				settled, last = nil, time.After(n.members.Grace())
			}
		case <-last:
			close(n.settled)
		case id := <-n.members.joined:
			n.greet(ctx, id)
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) handle(ctx context.Context, e any) {
	switch e := e.(type) {
	case event.EvtPeerIdentificationCompleted:
		n.greet(ctx, e.Peer)
	case event.EvtPeerProtocolsUpdated:
		n.greet(ctx, e.Peer)
	case event.EvtPeerConnectednessChanged:
		// It may be back already, and greeted: events of different kinds overtake each other.
		if e.Connectedness == network.NotConnected && n.lan.Host().Network().Connectedness(e.Peer) != network.Connected {
			n.leave(e.Peer)
		}
	}
}

// greet makes a connected peer a neighbour if it speaks our protocol.
func (n *Node) greet(ctx context.Context, id peer.ID) {
	h := n.lan.Host()
	if !n.members.mayBeNeighbour(ctx, id) {
		if h.Network().Connectedness(id) != network.Connected {
			n.members.Forget(id)
		}
		return
	}
	n.ledger.TallyOf(id).Outsider.Store(false)
	nb := peers.NewNeighbour(h, id, n.members.Protocol(), n.ledger)
	standing := n.lan.Dialer.Standing(id)
	nb.Stranger = standing.Stranger
	if !n.neighbours.add(nb) {
		return
	}
	n.background.running.Go(func() { nb.AskLoop(ctx) }) // Run cannot be waiting: it waits for watch first
	if standing.Visit {
		n.background.running.Go(func() { n.tryOut(ctx, nb) })
		return
	}
	if standing.Kept {
		h.ConnManager().TagPeer(id, "kept", 1) // others go first when there are too many
	}
	n.background.running.Go(func() { n.askPeers(ctx, id) })
	netmon.Hint(n.news)
	n.lan.NeighbourChanged(id, true)
	n.log.Log(nb.NewsLevel(), "neighbour joined", zap.Stringer("peer", id), zap.String("addr", n.lan.AddrOf(id)),
		zap.String("via", n.lan.Via(id)))
}

func (n *Node) leave(id peer.ID) {
	n.lan.NeighbourChanged(id, false)
	n.members.Forget(id)
	if nb := n.neighbours.remove(id); nb != nil {
		nb.Leave()
		n.log.Log(nb.NewsLevel(), "neighbour left", zap.Stringer("peer", id), zap.Duration("dur", time.Since(nb.Since)))
	}
}

// Lookup asks all neighbours about a hash part, and returns the first claim that can be believed. The error wraps
// [store.ErrNotFound] if there is none within 250 ms, or a second if neighbours are busy, or within ctx. About what was
// built here, and what only private keys have signed as far as this machine knows, no neighbour is asked.
func (n *Node) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	if err := n.secrets.checkLately(ctx, hp); err != nil {
		return trust.Mapping{}, err
	}
	f, err := n.lookups.lookup(ctx, hp, nil)
	if err != nil {
		n.missed(hp)
		return trust.Mapping{}, err
	}
	return f.mapping, nil
}

// Patience implements [narserve.Patient].
func (n *Node) Patience() time.Duration { return busyTimeout + infoTimeout }

// Fetch gets the NAR of a mapping into the spool, from all neighbours that have it at once, or if there are none from
// an upstream. Its bytes have the mapping's NarHash. The caller closes the result. The error wraps [store.ErrNotFound]
// if neither an honest neighbour that has it nor an upstream is left, [store.ErrNoSpace] if the spool is full, and
// [store.ErrMalformed] if it was fetched and must not reach Nix; no neighbour is blamed for that.
func (n *Node) Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	for {
		if sp, ok := n.cfg.Spool.Get(m.NarHash()); ok {
			// It may have been fetched for another mapping; its check does not cover this path.
			if err := m.CheckNAR(sp); err != nil {
				sp.Close()
				return nil, fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
			}
			return sp, nil
		}
		f, mine, err := n.downloads.open(m)
		if err != nil {
			return nil, err
		}
		if mine {
			return n.downloads.receive(ctx, f)
		}
		if err := n.proxy.await(ctx, f); err != nil {
			return nil, err
		}
		// The NAR is in the spool now; if that fetch failed, this one continues its draft.
	}
}

// Settled is closed when the peers that are around have had time to be found, at most 2 s after Run began.
func (n *Node) Settled() <-chan struct{} { return n.settled }
