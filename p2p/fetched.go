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
	spool  *spool.Spool
	shared *spool.Fetches // with Nix
	infos  *lru.Cache[store.HashPart, store.Info]

	mu       sync.Mutex // guards arriving and begun, and is held while infos are compared with the spool
	arriving map[store.Hash]*arrival
	begun    chan struct{} // closed, and made anew, when another is arriving
}

// An arrival is a NAR that is being received.
type arrival struct {
	*fetch.Session
	draft *spool.Draft
}

func newFetched(spool *spool.Spool, shared *spool.Fetches) *fetched {
	return &fetched{spool: spool, shared: shared, infos: lru.New[store.HashPart, store.Info](maxInfos),
		arriving: map[store.Hash]*arrival{}, begun: make(chan struct{})}
}

// add records that the NAR of m is in the spool.
func (f *fetched) add(m trust.Mapping) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.infos.Add(m.Path().HashPart(), m.Info())
}

// begin records that a NAR is being received, until end is called. It returns false if that NAR is already.
func (f *fetched) begin(a *arrival) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.arriving[a.Wanted.NarHash()] != nil {
		return false
	}
	f.arriving[a.Wanted.NarHash()] = a
	close(f.begun)
	f.begun = make(chan struct{})
	return true
}

// end records that a NAR is no longer being received: other peers no longer find it. What has come of one that failed
// stays in the spool for the next fetch.
func (f *fetched) end(a *arrival) {
	a.draft.Keep() // first: the next fetch is to find it
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.arriving, a.Wanted.NarHash())
}

// session returns the session that receives the NAR of a path, or nil.
func (f *fetched) session(hp store.HashPart) *fetch.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.arriving { // a few
		if a.Wanted.Path().HashPart() == hp {
			return a.Session
		}
	}
	return nil
}

// await waits for the session that receives a NAR. It returns nil if there is none until the NAR is no longer fetched, or
// ctx ends, or if the NAR is received for another path.
func (f *fetched) await(ctx context.Context, m trust.Mapping) *fetch.Session {
	ended := f.shared.Running(m.NarHash())
	for {
		f.mu.Lock()
		a, begun := f.arriving[m.NarHash()], f.begun
		f.mu.Unlock()
		switch {
		case a != nil && a.Wanted.Path() == m.Path():
			return a.Session
		case a != nil || ended == nil:
			return nil
		}
		select {
		case <-begun:
		case <-ended:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// Partial implements [serve.Arriving].
func (f *fetched) Partial(hp store.HashPart) serve.Partial {
	if s := f.session(hp); s != nil {
		return s
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
	if s := f.session(hp); s != nil && s.PassesOn() {
		return s.Wanted.Info(), nil
	}
	if info, ok := f.spooled(hp); ok { // a session ends once its NAR is in the spool
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
