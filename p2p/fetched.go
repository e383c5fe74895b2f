package p2p

import (
	"context"
	"fmt"
	"sync"

	"narbor/p2p/fetch"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/lru"
	"narbor/store/spool"
	"narbor/trust"
)

// fetched is the NARs that come from neighbours, as a [store.Source]: those in the spool can be passed on before Nix
// has taken them into its store, and those still being received block by block, so that a crowd that wants the same
// closure feeds itself. As for every source, the signatures decide which paths may be shared.
type fetched struct {
	spool *spool.Spool
	infos *lru.Cache[store.HashPart, store.Info]

	mu      sync.Mutex // guards flights, and is held while infos are compared with the spool
	flights map[store.Hash]*flight
}

// A flight is a fetch under way.
type flight struct {
	*fetch.Session
	draft *spool.Draft
	done  chan struct{} // closed when it has ended, and the NAR, or what has come of it, is in the spool
}

func newFetched(spool *spool.Spool) *fetched {
	return &fetched{spool: spool, infos: lru.New[store.HashPart, store.Info](maxInfos),
		flights: map[store.Hash]*flight{}}
}

// add records that the NAR of m is in the spool.
func (f *fetched) add(m trust.Mapping) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.infos.Add(m.Path().HashPart(), m.Info())
}

// begin records that a NAR is being received, until end is called. It returns the flight of that NAR that is going on
// already, if there is one, and else fl.
func (f *fetched) begin(fl *flight) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if going := f.flights[fl.Wanted.NarHash()]; going != nil {
		return going
	}
	f.flights[fl.Wanted.NarHash()] = fl
	return fl
}

// end records that a flight has ended: other peers no longer find it.
func (f *fetched) end(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flights, fl.Wanted.NarHash())
}

// going returns the flight of a NAR, or nil.
func (f *fetched) going(nar store.Hash) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flights[nar]
}

// flight returns the fetch of a path that is going on, or nil.
func (f *fetched) flight(hp store.HashPart) *fetch.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.flights { // a few
		if fl.Wanted.Path().HashPart() == hp {
			return fl.Session
		}
	}
	return nil
}

// Partial implements [serve.Arriving].
func (f *fetched) Partial(hp store.HashPart) serve.Partial {
	if fl := f.flight(hp); fl != nil {
		return fl
	}
	return nil
}

// Has implements [serve.Arriving].
func (f *fetched) Has(nar store.Hash) bool { return f.spool.Has(nar) }

// Info implements [store.Source].
func (f *fetched) Info(_ context.Context, hp store.HashPart) (store.Info, error) {
	if info, ok := f.spooled(hp); ok {
		return info, nil
	}
	if fl := f.flight(hp); fl != nil && fl.PassesOn() {
		return fl.Wanted.Info(), nil
	}
	if info, ok := f.spooled(hp); ok { // a flight ends once its NAR is in the spool
		return info, nil
	}
	return store.Info{}, fmt.Errorf("%s: not in the spool: %w", hp, store.ErrNotFound)
}

// spooled returns the narinfo of a path with a NAR in the spool, and forgets it if the NAR is gone.
func (f *fetched) spooled(hp store.HashPart) (store.Info, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, ok := f.infos.Peek(hp)
	if ok && !f.spool.Has(info.NarHash) {
		f.infos.Remove(hp)
		ok = false
	}
	return info, ok
}

// NAR implements [store.Source].
func (f *fetched) NAR(_ context.Context, info store.Info) (store.NAR, error) {
	sp, ok := f.spool.Get(info.NarHash)
	if !ok {
		return nil, fmt.Errorf("%s: not in the spool: %w", info.Path, store.ErrNotFound)
	}
	return sp, nil
}
