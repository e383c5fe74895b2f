package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	opening  sync.Mutex // one at a time: of two drafts of a NAR, one would not have what an earlier fetch has left
}

// open begins to receive a NAR; others may ask for its blocks from then on, and the caller calls receive. If that NAR
// is being received already, open returns that flight, which is not the caller's.
func (d *downloads) open(m trust.Mapping) (f *flight, mine bool, err error) {
	d.opening.Lock()
	defer d.opening.Unlock()
	if f = d.going(m.NarHash()); f != nil {
		return f, false, nil
	}
	draft, err := d.spool.Resume(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		d.server.CloseIdle(0) // the spool cannot clear out archives that are open for neighbours
		draft, err = d.spool.Resume(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", m.Path(), err)
	}
	shared, ok := d.server.May(m)
	f = &flight{fetch.New(d.deps, m, draft, shared, ok), draft, make(chan struct{})}
	// Before others are asked: so that of two nodes that begin at once, one sees the other.
	if going := d.begin(f); going != f {
		draft.Keep()
		return going, false, nil
	}
	return f, true, nil
}

// receive receives the NAR, only for other machines if forOthers is true. If it fails, the received blocks stay in the
// spool for the next fetch.
func (d *downloads) receive(ctx context.Context, f *flight, forOthers bool) (*spool.NAR, error) {
	defer close(f.done)
	defer d.end(f) // last: the next fetch is to find what has come
	defer f.draft.Keep()
	m := f.Wanted
	sp, err := f.Fetch(ctx, !d.lookups.Knows(m) && d.secrets.CheckNAR(ctx, m) != nil, forOthers)
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
