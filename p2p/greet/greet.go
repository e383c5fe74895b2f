// Package greet makes the connected peers neighbours that speak our protocol, and are in our group if there is one,
// until their connections end. What a group is, and how a peer proves to be in one, is in the package comment of p2p.
package greet

import (
	"context"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"go.uber.org/zap"

	"narbor/p2p/ask"
	"narbor/p2p/discovery"
	"narbor/p2p/meet"
	"narbor/p2p/peers"
	"narbor/store/flight"
)

// Config is what a greeter needs of the node. All fields are required but Group.
type Config struct {
	LAN        *discovery.LAN
	Neighbours *peers.Set // only the greeter changes it
	Ledger     *peers.Ledger
	Group      *peers.Group // nil is no group
	Exchange   *meet.Exchange
	Visits     *ask.Visits
	Life       *flight.Life // of what is done with each peer; ended after Run has returned
	// Reconsider receives a value, and has room for one, when the advertised capabilities may have changed; then Run
	// calls Advertise.
	Reconsider chan struct{}
	Advertise  func()
}

// A Greeter makes connected peers neighbours. Its methods may be called concurrently.
type Greeter struct {
	Config
	members *members
	settled chan struct{}
}

// New starts nothing.
func New(cfg Config) *Greeter {
	return &Greeter{cfg, &members{cfg.Group, cfg.Ledger, cfg.LAN, cfg.Life, make(chan peer.ID), cfg.LAN.Log}, make(chan struct{})}
}

// Settled is closed when the peers that are around have had time to be found.
func (g *Greeter) Settled() <-chan struct{} { return g.settled }

// Prove answers a peer that proves to be in our group. There must be one.
func (g *Greeter) Prove(ctx context.Context, s network.Stream) { g.members.serve(ctx, s) }

// Outsiders are the connected peers of other groups.
func (g *Greeter) Outsiders() []Outsider { return g.members.outsiders() }

// Run keeps the list of neighbours until ctx ends. It is called once.
func (g *Greeter) Run(ctx context.Context) error {
	sub, err := g.LAN.Host().EventBus().Subscribe([]any{new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerProtocolsUpdated),
		new(event.EvtPeerConnectednessChanged)}, eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("libp2p events: %w", err)
	}
	defer sub.Close()
	defer func() {
		for _, nb := range g.Neighbours.All() {
			g.Neighbours.Remove(nb.ID)
			nb.Leave()
		}
	}()
	for _, id := range g.LAN.Host().Network().Peers() {
		g.greet(ctx, id) // the host listened before there were events
	}
	settled, last := g.LAN.Settled(), (<-chan time.Time)(nil)
	for {
		select {
		case e := <-sub.Out():
			g.handle(ctx, e)
		case <-g.Reconsider:
			g.Advertise()
		case <-settled:
			if len(sub.Out()) == 0 { // the peers that were found are in the list
				settled, last = nil, time.After(g.members.Grace())
			}
		case <-last:
			close(g.settled)
		case id := <-g.members.joined:
			g.greet(ctx, id)
		case <-ctx.Done():
			return nil
		}
	}
}

func (g *Greeter) handle(ctx context.Context, e any) {
	switch e := e.(type) {
	case event.EvtPeerIdentificationCompleted:
		g.greet(ctx, e.Peer)
	case event.EvtPeerProtocolsUpdated:
		g.greet(ctx, e.Peer)
	case event.EvtPeerConnectednessChanged:
		// It may be back already, and greeted: events of different kinds overtake each other.
		if e.Connectedness == network.NotConnected && g.LAN.Host().Network().Connectedness(e.Peer) != network.Connected {
			g.leave(e.Peer)
		}
	}
}

// greet makes a connected peer a neighbour if it speaks our protocol.
func (g *Greeter) greet(ctx context.Context, id peer.ID) {
	h := g.LAN.Host()
	if !g.members.admitOrProve(ctx, id) {
		if h.Network().Connectedness(id) != network.Connected {
			g.members.Forget(id)
		}
		return
	}
	g.Ledger.TallyOf(id).Outsider.Store(false)
	nb := peers.NewNeighbour(h, id, g.members.Protocol(), g.Ledger)
	standing := g.LAN.Dialer.Standing(id)
	nb.NonNeighbour = standing.NonNeighbour
	if !g.Neighbours.Add(nb) {
		return
	}
	g.Life.Go(func() { nb.AskLoop(ctx) }) // goes on while the node runs
	if standing.Visit {
		g.Life.Go(func() { g.Visits.TryOut(ctx, nb) })
		return
	}
	if standing.Kept {
		h.ConnManager().TagPeer(id, "kept", 1) // others go first when there are too many
	}
	g.Life.Go(func() { g.Exchange.Joined(ctx, id) })
	g.LAN.NeighbourChanged(id, true)
	g.LAN.Log.Log(nb.NewsLevel(), "neighbour joined", zap.Stringer("peer", id), zap.String("addr", g.LAN.AddrOf(id)),
		zap.String("via", g.LAN.Via(id)))
}

func (g *Greeter) leave(id peer.ID) {
	g.LAN.NeighbourChanged(id, false)
	g.members.Forget(id)
	if nb := g.Neighbours.Remove(id); nb != nil {
		nb.Leave()
		g.LAN.Log.Log(nb.NewsLevel(), "neighbour left", zap.Stringer("peer", id), zap.Duration("dur", time.Since(nb.Since)))
	}
}
