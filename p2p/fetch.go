package p2p

import (
	"context"
	"errors"
	"fmt"

	"narbor/p2p/fetch"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// Fetch gets the NAR of a mapping into the spool, from all neighbours that have it at once, or if there are none from
// an upstream. Its bytes have the mapping's NarHash. The caller closes the result. The error wraps [store.ErrNotFound]
// if neither an honest neighbour that has it nor an upstream is left, [store.ErrNoSpace] if the spool is full, and
// [store.ErrMalformed] if it was fetched and must not reach Nix; no neighbour is blamed for that.
func (n *Node) Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	n.awaitJob(ctx, m)
	if sp, ok := n.cfg.Spool.Get(m.NarHash()); ok {
		// It may have been fetched for another mapping; its check does not cover this path.
		if err := m.CheckNAR(sp); err != nil {
			sp.Close()
			return nil, fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
		}
		return sp, nil
	}
	f, err := n.newFlight(m)
	if err != nil {
		return nil, err
	}
	return n.fly(ctx, f)
}

// A flight is a fetch that other peers can find.
type flight struct {
	*fetch.Session
	draft  *spool.Draft
	landed func() // other peers no longer find it
}

// newFlight begins to receive a NAR; others may ask for its blocks from then on. The caller calls fly.
func (n *Node) newFlight(m trust.Mapping) (*flight, error) {
	draft, err := n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		n.server.CloseIdle(0) // the spool cannot clear out archives that are open for neighbours
		draft, err = n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	f := n.newFetch(m, draft)
	// Before others are asked: so that of two nodes that begin at once, one sees the other.
	return &flight{f, draft, n.fetched.begin(f)}, nil
}

// fly receives the NAR.
func (n *Node) fly(ctx context.Context, f *flight) (*spool.NAR, error) {
	defer f.draft.Discard()
	defer f.landed()
	m := f.Wanted
	sp, err := f.Fetch(ctx, !n.lookups.knows(m) && n.secrets.checkNAR(ctx, m) != nil)
	if err != nil {
		return nil, err
	}
	n.fetched.add(m)
	if f.InDemand() {
		n.server.Offer(m, sp)
	}
	return sp, nil
}

// fetching returns what fetches need of this node.
func (n *Node) fetching() *fetch.Deps {
	return &fetch.Deps{Self: n.lan.Host().ID(), Swarm: nodeSwarm{n.lookups, n}, Conduct: nodeConduct{n}, Upstreams: n.cfg.Upstreams,
		Throughput: &n.upstreams.throughput, Received: n.countReceived, Log: n.log}
}

// New returns a fetch that writes into a draft.
func (n *Node) newFetch(m trust.Mapping, draft *spool.Draft) *fetch.Session {
	shared, ok := n.server.May(m)
	return fetch.New(n.fetching(), m, draft, shared, ok)
}

// countReceived counts bytes of a NAR that have come.
func (n *Node) countReceived(o store.Origin, m trust.Mapping, from string, size int) {
	n.received[o].Add(int64(size))
	n.cfg.Observer.Received(o, m, from, size)
}
