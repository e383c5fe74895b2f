package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"narbor/p2p/ask"
	"narbor/p2p/discovery"
	"narbor/p2p/fetch"
	"narbor/p2p/greet"
	"narbor/p2p/meet"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/proxy"
	"narbor/p2p/receive"
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
	downloads  *receive.Downloads
	received   map[store.Origin]*atomic.Int64 // bytes of NARs since the start; its keys never change
	proxy      *proxy.Proxy
	dialBacks  *meet.DialBacks
	greeter    *greet.Greeter
	background *flight.Life
}

// A nodeSwarm implements [fetch.Swarm], and [serve.Proxy].
type nodeSwarm struct {
	*ask.Lookups
	*proxy.Proxy // set when all that it needs is made
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
	policy := secrets.New(secrets.Config{Sources: cfg.Sharing.Sources, Upstreams: cfg.Upstreams.Caches, Shared: cfg.Sharing.Keys,
		Trusted: cfg.Trusted})
	n := &Node{cfg: cfg, lan: l, neighbours: around, ledger: book, background: back, received: map[store.Origin]*atomic.Int64{}}
	for _, o := range store.Origins() {
		n.received[o] = new(atomic.Int64)
	}
	asks := ask.New(ask.Config{Neighbours: around, Ledger: book, Secrets: policy, Log: log, SinceAck: l.Gate.SinceAck, AddrOf: l.AddrOf,
		Sharing: func() bool { return len(cfg.Sharing.Sources) > 0 && n.Sharing() }}) // `narbor fetch` has none
	meeting := meet.Config{LAN: l, Neighbours: around, Ledger: book, Group: group, Arrivals: arrived,
		Simulated: cfg.Discovery.Net != nil, Name: cfg.Name}
	n.lookups, n.dialBacks = asks, meet.NewDialBacks(meeting)
	n.connect(group)
	n.greeter = greet.New(greet.Config{LAN: l, Neighbours: around, Ledger: book, Group: group, Exchange: meet.NewExchange(meeting),
		Visits: ask.NewVisits(asks, l.Dialer), Life: back, Reconsider: reconsider, Advertise: n.proxy.Advertise})
	n.Share(!cfg.Sharing.Off)
	return n, nil
}

// connect creates downloads, server and proxy, and gives each of them the others that it calls.
func (n *Node) connect(group *peers.Group) {
	cfg, log, throughput := n.cfg, n.lan.Log, new(fetch.Throughput)
	fetched, swarm := receive.NewFetched(cfg.Spool, cfg.Fetches), &nodeSwarm{Lookups: n.lookups}
	serving := serve.Config{Sharing: cfg.Sharing, Ledger: n.ledger, Links: n.lan.Gate, Log: log, Origin: n.lan.Gate.Origin,
		Admits: group.Has, Meet: n.meet, Sent: cfg.Observer.Sent, Proxy: swarm}
	if len(cfg.Sharing.Sources) > 0 {
		serving.Arriving = fetched
	}
	n.server = serve.New(serving)
	sessions := &fetch.Deps{Self: n.lan.Host().ID(), Swarm: swarm, Conduct: conduct{n.neighbours, n.ledger, n.background, log},
		Upstreams: cfg.Upstreams.Caches, Throughput: throughput, Rebuilds: cfg.Rebuilds, Received: n.count, Log: log}
	n.downloads = receive.New(receive.Config{Fetched: fetched, Server: n.server, Lookups: n.lookups, Sessions: sessions})
	n.proxy = proxy.New(proxy.Config{Upstreams: cfg.Upstreams, Host: n.lan.Host(), Lookups: n.lookups, Server: n.server,
		Downloads: n.downloads, Fetches: cfg.Fetches, Life: n.background, Throughput: throughput, Metered: n.lan.IsMetered,
		Landed: cfg.Observer.Landed})
	swarm.Proxy = n.proxy
}

// meet makes a peer that asks about a NAR a member of its swarm, if the NAR is being received here: the peer may be
// about to receive it, too. It comes after the budget, because a member is asked for blocks, and so hears of it.
func (n *Node) meet(id peer.ID, hp store.HashPart) {
	if f, nb := n.downloads.Session(hp), n.neighbours.Get(id); f != nil && nb != nil {
		f.AddMember(nb)
	}
}

func (n *Node) count(o store.Origin, m trust.Mapping, from string, size int) {
	n.received[o].Add(int64(size))
	n.cfg.Observer.Received(o, m, from, size)
}

// Share turns sharing on or off at once, also for transfers that are under way: they end with the block that is being
// sent. A node without sources shares nothing anyway.
func (n *Node) Share(on bool) {
	n.server.Share(on)
	netmon.Hint(n.greeter.Reconsider)
}

// Sharing says whether sharing is on.
func (n *Node) Sharing() bool { return n.server.Sharing() }

// Run looks for neighbours, answers them, and keeps in touch, until ctx ends; then it closes all connections, and
// returns once all its parts have ended. A read of this machine's store that hangs is not waited for. It is called
// once.
func (n *Node) Run(ctx context.Context) error {
	if n.cfg.Sharing.Manifests != "" {
		if err := n.server.KeepManifests(n.cfg.Sharing.Manifests); err != nil {
			n.lan.Log.Warn("manifests are not kept", zap.Error(err))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	n.handleStreams(ctx, n.greeter.Group.Protocol(), n.server.Serve)
	if n.greeter.Group != nil {
		n.handleStreams(ctx, peers.GroupProtocol, n.greeter.Prove)
	}
	n.proxy.Advertise()
	n.handleStreams(ctx, meet.PeersProtocol, n.greeter.Exchange.Serve)
	n.handleStreams(ctx, meet.DialBackProtocol, n.dialBacks.Serve)
	g.Go(func() error { return n.lan.Run(ctx) })
	g.Go(func() error { return n.greeter.Exchange.Run(ctx) })
	g.Go(func() error { return n.ledger.Run(ctx) })
	g.Go(func() error { return n.server.Run(ctx) })
	g.Go(func() error { return n.lookups.RunOffers(ctx) })
	g.Go(func() error { return n.greeter.Run(ctx) })
	err := g.Wait()
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
		n.greeter.Visits.Missed(hp)
		return trust.Mapping{}, err
	}
	if len(n.cfg.Upstreams.Caches) > 0 { // it is asked instead of neighbours that are slower
		return f.Mapping, nil
	}
	return f.Mapping, n.lookups.TooSlow(f)
}

// LookupUpstream asks the upstreams about a hash part, or the neighbour that does so for all, see [proxy.Proxy.Lookup].
func (n *Node) LookupUpstream(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	return n.proxy.Lookup(ctx, hp)
}

// Assignment returns the peer that asks the upstreams about a hash part now, see [proxy.Proxy.Assignment].
func (n *Node) Assignment(hp store.HashPart) proxy.Assignment { return n.proxy.Assignment(hp) }

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
// [store.ErrMalformed] if it was fetched and must not reach Nix; no neighbour is blamed for that. What a fetch that
// failed has received stays in the spool for the next one. It is called within one of [Config.Fetches]: of two calls
// for a NAR at the same time, the second fails.
func (n *Node) Fetch(ctx context.Context, m trust.Mapping) (sp *spool.NAR, err error) {
	a, err := n.downloads.Begin(m)
	if err != nil {
		return nil, err
	}
	defer func() { a.End(sp) }()
	return a.Fetch(ctx, n.downloads.IsSecret(ctx, m), false)
}

// FetchShared is Fetch for callers that may want the same NAR at the same time. It goes on as long as one of them
// waits, and fails once Run has ended.
func (n *Node) FetchShared(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	return n.cfg.Fetches.Join(n.background.Context(), m.NarHash(), spool.Call{Name: m.Path(),
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
func (n *Node) Settled() <-chan struct{} { return n.greeter.Settled() }
