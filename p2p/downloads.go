package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"narbor/p2p/ask"
	"narbor/p2p/fetch"
	"narbor/p2p/secrets"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// downloads receives NARs into the spool, for this machine or for others. Its methods may be called concurrently.
type downloads struct {
	*fetched
	server   *serve.Server
	lookups  *ask.Lookups
	secrets  *secrets.Policy
	deps     *fetch.Deps
	received map[store.Origin]*atomic.Int64 // bytes of NARs since the start; its keys never change
	observer Observer
}

// open begins to receive a NAR; others may ask for its blocks from then on, until the caller calls end. It fails if that
// NAR is being received already.
func (d *downloads) open(m trust.Mapping) (*arrival, error) {
	draft, err := d.spool.Resume(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		d.server.CloseIdle(0) // the spool cannot clear out archives that are open for neighbours
		draft, err = d.spool.Resume(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	shared, ok := d.server.May(m)
	a := &arrival{d.deps.NewSession(m, draft, shared, ok), draft}
	// Before others are asked: so that of two nodes that begin at once, one sees the other.
	if !d.begin(a) {
		draft.Keep()
		return nil, fmt.Errorf("%s: it is being received already: %w", m.Path(), store.ErrNotFound)
	}
	return a, nil
}

// isSecret reports whether no neighbour may learn that a NAR is wanted.
func (d *downloads) isSecret(ctx context.Context, m trust.Mapping) bool {
	return !d.lookups.Knows(m) && d.secrets.CheckNAR(ctx, m) != nil
}

// landed makes a NAR that has come known to neighbours.
func (d *downloads) landed(a *arrival, sp *spool.NAR) {
	d.add(a.Wanted)
	if a.InDemand() {
		d.server.Offer(a.Wanted, sp)
	}
}

// spooledFor makes a NAR that is in the spool known to neighbours as that of a path, too. It returns false if it is not there.
func (d *downloads) spooledFor(m trust.Mapping) bool {
	sp, ok := d.spool.Get(m.NarHash())
	if !ok {
		return false
	}
	defer sp.Close()
	if m.CheckNAR(sp) != nil {
		return false
	}
	d.add(m)
	return true
}

// count counts bytes of a NAR that have come.
func (d *downloads) count(o store.Origin, m trust.Mapping, from string, size int) {
	d.received[o].Add(int64(size))
	d.observer.Received(o, m, from, size)
}
