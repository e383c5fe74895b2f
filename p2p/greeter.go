package p2p

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/ask"
	"narbor/p2p/discovery"
	"narbor/p2p/meet"
	"narbor/p2p/peers"
	"narbor/p2p/proxy"
	"narbor/store/flight"
)

// A greeter makes connected peers neighbours if they speak our protocol, and ends that when their connections do.
type greeter struct {
	lan        *discovery.LAN
	neighbours *peers.Set
	ledger     *peers.Ledger
	members    *members
	exchange   *meet.Exchange
	visits     *ask.Visits
	proxy      *proxy.Proxy
	background *flight.Life
	reconsider chan struct{} // the advertised capabilities may have changed
	settled    chan struct{} // closed when the peers that are around have had time to be found
}

// run keeps the list of neighbours until ctx ends.
func (g *greeter) run(ctx context.Context, events <-chan any) {
	defer func() {
		for _, nb := range g.neighbours.All() {
			g.neighbours.Remove(nb.ID)
			nb.Leave()
		}
	}()
	for _, id := range g.lan.Host().Network().Peers() {
		g.greet(ctx, id) // the host listened before there were events
	}
	settled, last := g.lan.Settled(), (<-chan time.Time)(nil)
	for {
		select {
		case e := <-events:
			g.handle(ctx, e)
		case <-g.reconsider:
			g.proxy.Advertise()
		case <-settled:
			if len(events) == 0 { // the peers that were found are in the list
				settled, last = nil, time.After(g.members.Grace())
			}
		case <-last:
			close(g.settled)
		case id := <-g.members.joined:
			g.greet(ctx, id)
		case <-ctx.Done():
			return
		}
	}
}

func (g *greeter) handle(ctx context.Context, e any) {
	switch e := e.(type) {
	case event.EvtPeerIdentificationCompleted:
		g.greet(ctx, e.Peer)
	case event.EvtPeerProtocolsUpdated:
		g.greet(ctx, e.Peer)
	case event.EvtPeerConnectednessChanged:
		// It may be back already, and greeted: events of different kinds overtake each other.
		if e.Connectedness == network.NotConnected && g.lan.Host().Network().Connectedness(e.Peer) != network.Connected {
			g.leave(e.Peer)
		}
	}
}

// greet makes a connected peer a neighbour if it speaks our protocol.
func (g *greeter) greet(ctx context.Context, id peer.ID) {
	h := g.lan.Host()
	if !g.members.mayBeNeighbour(ctx, id) {
		if h.Network().Connectedness(id) != network.Connected {
			g.members.Forget(id)
		}
		return
	}
	g.ledger.TallyOf(id).Outsider.Store(false)
	nb := peers.NewNeighbour(h, id, g.members.Protocol(), g.ledger)
	standing := g.lan.Dialer.Standing(id)
	nb.NonNeighbour = standing.NonNeighbour
	if !g.neighbours.Add(nb) {
		return
	}
	g.background.Go(func() { nb.AskLoop(ctx) }) // Run does not wait for these yet: it waits for run first
	if standing.Visit {
		g.background.Go(func() { g.visits.TryOut(ctx, nb) })
		return
	}
	if standing.Kept {
		h.ConnManager().TagPeer(id, "kept", 1) // others go first when there are too many
	}
	g.background.Go(func() { g.exchange.Joined(ctx, id) })
	g.lan.NeighbourChanged(id, true)
	g.lan.Log.Log(nb.NewsLevel(), "neighbour joined", zap.Stringer("peer", id), zap.String("addr", g.lan.AddrOf(id)),
		zap.String("via", g.lan.Via(id)))
}

func (g *greeter) leave(id peer.ID) {
	g.lan.NeighbourChanged(id, false)
	g.members.Forget(id)
	if nb := g.neighbours.Remove(id); nb != nil {
		nb.Leave()
		g.lan.Log.Log(nb.NewsLevel(), "neighbour left", zap.Stringer("peer", id), zap.Duration("dur", time.Since(nb.Since)))
	}
}
