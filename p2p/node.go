package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"narbor/p2p/ask"
	"narbor/p2p/discovery"
	"narbor/p2p/fetch"
	"narbor/p2p/meet"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/flight"
	"narbor/store/spool"
	"narbor/trust"
)

// A Node is this machine among its neighbours. Its methods may be called concurrently, and before and after Run,
// when there are no neighbours.
type Node struct {
	cfg        Config
	lan        *discovery.LAN
	neighbours *peers.Set
	ledger     *peers.Ledger
	server     *serve.Server
	lookups    *ask.Lookups
	visits     *ask.Visits
	downloads  *downloads
	proxy      *proxy
	dialBacks  *meet.DialBacks
	greeter    *greeter
	background *flight.Life
}

// A nodeSwarm implements [fetch.Swarm].
type nodeSwarm struct {
	*ask.Lookups
	*proxy
}

// New makes a node that listens for connections but neither looks for neighbours nor answers them until Run.
func New(cfg Config) (*Node, error) {
	if cfg.Sharing.Circle != nil && cfg.GroupSecret == nil {
		return nil, errors.New("own builds are for members of a group, and there is none")
	}
	if cfg.Name != "" {
		if err := peers.CheckName(cfg.Name); err != nil {
			return nil, fmt.Errorf("%.70q %w", cfg.Name, err)
		}
	}
	if cfg.Host.Log == nil {
		cfg.Host.Log = zap.NewNop()
	}
	if cfg.Fetches == nil {
		cfg.Fetches = spool.NewFetches(cfg.Spool.Get)
	}
	if cfg.Observer == nil {
		cfg.Observer = noObserver{}
	}
	book, arrived := peers.NewLedger(cfg.Denied, cfg.Host.Log), &meet.Arrivals{}
	reconsider := make(chan struct{}, 1)
	l, err := discovery.New(cfg.Discovery, cfg.host(), discovery.Hooks{Denies: book.Denies, Arrived: arrived.Note,
		LinksLooked: func() { netmon.Hint(reconsider) }})
	if err != nil {
		return nil, err
	}
	log := l.Log // which has no stand-ins
	cfg.Host.Log = log
	group, err := peers.NewGroup(cfg.GroupSecret, l.Host(), log)
	if err != nil {
		return nil, errors.Join(err, l.Host().Close())
	}
	book.Log, book.CloseAll = log, l.CloseAll
	around, back := peers.NewSet(), flight.NewLife()
	admits := &members{group, book, l, back, make(chan peer.ID), log}
	policy := secrets.New(secrets.Config{Sources: cfg.Sharing.Sources, Upstreams: cfg.Upstreams.Caches, Shared: cfg.Sharing.Keys,
		Trusted: cfg.Trusted})
	n := &Node{cfg: cfg, lan: l, neighbours: around, ledger: book, background: back}
	asks := ask.New(ask.Config{Neighbours: around, Ledger: book, Secrets: policy, Log: log, SinceAck: l.Gate.SinceAck, AddrOf: l.AddrOf,
		Sharing: func() bool { return len(cfg.Sharing.Sources) > 0 && n.Sharing() }}) // `narbor fetch` has none
	meeting := meet.Config{LAN: l, Neighbours: around, Ledger: book, Group: group, Arrivals: arrived,
		Simulated: cfg.Discovery.Net != nil, Name: cfg.Name}
	n.lookups, n.visits, n.dialBacks = asks, ask.NewVisits(asks, l.Dialer), meet.NewDialBacks(meeting)
	n.connect(admits)
	n.greeter = &greeter{lan: l, neighbours: around, ledger: book, members: admits,
		exchange: meet.NewExchange(meeting), visits: n.visits, proxy: n.proxy, background: back,
		reconsider: reconsider, settled: make(chan struct{})}
	n.Share(!cfg.Sharing.Off)
	return n, nil
}

// connect creates downloads, server and proxy, and gives each of them the others that it calls.
func (n *Node) connect(admits *members) {
	cfg, policy, log := n.cfg, n.lookups.Secrets, n.lan.Log
	ups := &upstreams{caches: cfg.Upstreams.Caches, trusted: cfg.Trusted, log: log}
	n.downloads = &downloads{fetched: newFetched(cfg.Spool, cfg.Fetches), lookups: n.lookups, secrets: policy, observer: cfg.Observer,
		received: map[store.Origin]*atomic.Int64{}}
	for _, o := range store.Origins() {
		n.downloads.received[o] = new(atomic.Int64)
	}
	n.proxy = &proxy{cooperates: !cfg.Upstreams.NoCooperate, upstreams: ups, protocol: upstreamProtocolID(cfg.Upstreams.Caches),
		neighbours: n.neighbours, secrets: policy, downloads: n.downloads,
		jobs:       newProxyDownloads(cmp.Or(cfg.Upstreams.Budget, DefaultBudget)),
		background: n.background, host: n.lan.Host(), metered: n.lan.IsMetered, power: &netmon.Power{Dir: cfg.Upstreams.PowerSupplies}}
	n.downloads.deps = &fetch.Deps{Self: n.lan.Host().ID(), Swarm: nodeSwarm{n.lookups, n.proxy},
		Conduct:   conduct{n.neighbours, n.ledger, n.background, log},
		Upstreams: cfg.Upstreams.Caches, Throughput: &ups.throughput, Rebuilds: cfg.Rebuilds, Received: n.downloads.count, Log: log}
	serving := serve.Config{Sharing: cfg.Sharing, Ledger: n.ledger, Links: n.lan.Gate, Log: log, Origin: n.lan.Gate.Origin,
		Admits: admits.Has, Meet: n.proxy.meet, Sent: cfg.Observer.Sent, Proxy: n.proxy}
	if len(cfg.Sharing.Sources) > 0 {
		serving.Arriving = n.downloads
	}
	n.server = serve.New(serving)
	n.proxy.server, n.downloads.server = n.server, n.server
}

// Share turns sharing on or off at once, also for transfers that are under way: they end with the block that is being
// sent. A node without sources shares nothing anyway.
func (n *Node) Share(on bool) {
	n.server.Share(on)
	netmon.Hint(n.greeter.reconsider)
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
	if n.cfg.Sharing.Manifests != "" {
		if err := n.server.KeepManifests(n.cfg.Sharing.Manifests); err != nil {
			n.lan.Log.Warn("manifests are not kept", zap.Error(err))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	members := n.greeter.members
	n.handleStreams(ctx, members.Protocol(), n.server.Serve)
	if members.Group != nil {
		n.handleStreams(ctx, peers.GroupProtocol, members.serve)
	}
	n.proxy.advertise()
	n.handleStreams(ctx, meet.PeersProtocol, n.greeter.exchange.Serve)
	n.handleStreams(ctx, meet.DialBackProtocol, n.dialBacks.Serve)
	g.Go(func() error { return n.lan.Run(ctx) })
	g.Go(func() error { return n.greeter.exchange.Run(ctx) })
	g.Go(func() error { return n.ledger.Run(ctx) })
	g.Go(func() error { return n.server.Run(ctx) })
	g.Go(func() error { return n.lookups.RunOffers(ctx) })
	g.Go(func() error {
		defer sub.Close()
		n.greeter.run(ctx, sub.Out())
		return nil
	})
	err = g.Wait()
	n.background.End(nil)
	n.server.Close()
	return err
}

func (n *Node) handleStreams(ctx context.Context, p protocol.ID, serve func(context.Context, network.Stream)) {
	n.lan.Host().SetStreamHandler(p, func(s network.Stream) {
		if !n.background.Enter() {
			s.Reset()
			return
		}
		defer n.background.Leave()
		serve(ctx, s)
	})
}

// Lookup asks all neighbours about a hash part, and returns the first claim that can be believed. The error wraps
// [store.ErrNotFound] if there is none within 250 ms, or a second if neighbours are busy, or within ctx; and also
// [store.ErrSlow] if neighbours have the path, but would take too long to send its NAR. No neighbour is asked about a
// path that was built here, or that only private keys have signed as far as this machine knows.
func (n *Node) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	if err := n.lookups.Secrets.CheckLately(ctx, hp); err != nil {
		return trust.Mapping{}, err
	}
	f, err := n.lookups.Lookup(ctx, hp, nil)
	if err != nil {
		n.visits.Missed(hp)
		return trust.Mapping{}, err
	}
	if len(n.proxy.upstreams.caches) > 0 { // it is asked instead of neighbours that are slower
		return f.Mapping, nil
	}
	return f.Mapping, n.lookups.TooSlow(f)
}

// Files asks all neighbours for a path that is a file, see [ask.Lookups.Files].
func (n *Node) Files(ctx context.Context, f trust.File) ([]trust.Mapping, error) {
	return n.lookups.Files(ctx, f)
}

// AskEach asks every neighbour by itself about a hash part, see [ask.Lookups.AskEach].
func (n *Node) AskEach(ctx context.Context, hp store.HashPart) []ask.Answer {
	return n.lookups.AskEach(ctx, hp)
}

// DialBack asks neighbours to connect to this machine, see [meet.DialBacks.Ask].
func (n *Node) DialBack(ctx context.Context) []meet.DialBack { return n.dialBacks.Ask(ctx) }

// Patience implements [narserve.Patient]: Lookup returns when its context ends, whatever it waits for.
func (n *Node) Patience() time.Duration { return peers.BusyTimeout + peers.InfoTimeout }

// Fetch gets the NAR of a mapping into the spool, from all neighbours that have it at once, or if there are none from
// an upstream. Its bytes have the mapping's NarHash. The caller closes the result. The error wraps [store.ErrNotFound]
// if neither an honest neighbour that has it nor an upstream is left, [store.ErrNoSpace] if the spool is full, and
// [store.ErrMalformed] if it was fetched and must not reach Nix; no neighbour is blamed for that. What a fetch that failed
// has received stays in the spool for the next one. It is called within one of
// [Config.Fetches]: of two calls for a NAR at the same time, the second fails.
func (n *Node) Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	a, err := n.downloads.open(m)
	if err != nil {
		return nil, err
	}
	defer n.downloads.end(a)
	sp, err := a.Fetch(ctx, n.downloads.isSecret(ctx, m), false)
	if err == nil {
		n.downloads.landed(a, sp)
	}
	return sp, err
}

// FetchShared is Fetch for callers that may want the same NAR at the same time. It goes on as long as one of them waits, and
// fails once Run has ended.
func (n *Node) FetchShared(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	return n.downloads.shared.Join(n.background.Context(), m.NarHash(), spool.Call{Name: m.Path(),
		Check: func(sp *spool.NAR) error {
			if err := m.CheckNAR(sp); err != nil {
				return fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
			}
			return nil
		},
		Run: func(ctx context.Context) (*spool.NAR, error) {
			if !n.background.Enter() {
				return nil, context.Canceled
			}
			defer n.background.Leave()
			return n.Fetch(ctx, m)
		}}).Wait(ctx)
}

// Settled is closed when the peers that are around have had time to be found, at most 2 s after Run began.
func (n *Node) Settled() <-chan struct{} { return n.greeter.settled }
