package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"narbor/p2p/fetch"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// downloads receives NARs into the spool, for this machine or for others. Its methods may be called concurrently.
type downloads struct {
	*fetched
	server   *serve.Server
	lookups  *lookups
	secrets  *secrets
	deps     *fetch.Deps
	received map[store.Origin]*atomic.Int64 // bytes of NARs since the start; its keys never change
	observer Observer
}

// A flight is a fetch that other peers can find.
type flight struct {
	*fetch.Session
	draft  *spool.Draft
	landed func() // other peers no longer find it
}

// open begins to receive a NAR; others may ask for its blocks from then on. The caller calls receive.
func (d *downloads) open(m trust.Mapping) (*flight, error) {
	draft, err := d.spool.Resume(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		d.server.CloseIdle(0) // the spool cannot clear out archives that are open for neighbours
		draft, err = d.spool.Resume(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	shared, ok := d.server.May(m)
	f := fetch.New(d.deps, m, draft, shared, ok)
	// Before others are asked: so that of two nodes that begin at once, one sees the other.
	return &flight{f, draft, d.begin(f)}, nil
}

// receive receives the NAR. If it fails, what has come stays in the spool for the next fetch.
func (d *downloads) receive(ctx context.Context, f *flight) (*spool.NAR, error) {
	defer f.draft.Keep()
	defer f.landed()
	m := f.Wanted
	sp, err := f.Fetch(ctx, !d.lookups.knows(m) && d.secrets.checkNAR(ctx, m) != nil)
	if err != nil {
		return nil, err
	}
	d.add(m)
	if f.InDemand() {
		d.server.Offer(m, sp)
	}
	return sp, nil
}

// count counts bytes of a NAR that have come.
func (d *downloads) count(o store.Origin, m trust.Mapping, from string, size int) {
	d.received[o].Add(int64(size))
	d.observer.Received(o, m, from, size)
}
