package receive

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

// maxInfos bounds the memory of claims of received NARs: some closures' worth.
const maxInfos = 16 << 10

// Fetched has the NARs that come from neighbours and upstreams, as a [store.Source]: those in the spool can be passed
// on before Nix has taken them into its store, and those still being received block by block, so that a swarm that
// wants the same closure feeds itself. As for every source, the signatures decide which paths may be shared. Its
// methods may be called concurrently.
type Fetched struct {
	spool  *spool.Spool
	shared *spool.Fetches // with Nix
	infos  *lru.Cache[store.HashPart, store.Info]

	mu       sync.Mutex // guards arriving and begun, and is held while infos are compared with the spool
	arriving map[store.Hash]*fetch.Session
	begun    chan struct{} // closed, and made anew, when another is arriving
}

// NewFetched starts nothing. shared has the fetches into the spool, those for Nix too.
func NewFetched(spool *spool.Spool, shared *spool.Fetches) *Fetched {
	return &Fetched{spool: spool, shared: shared, infos: lru.New[store.HashPart, store.Info](maxInfos),
		arriving: map[store.Hash]*fetch.Session{}, begun: make(chan struct{})}
}

// add records that the NAR of m is in the spool.
func (f *Fetched) add(m trust.Mapping) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.infos.Add(m.Path().HashPart(), m.Info())
}

// begin records that a NAR is being received, until end is called. It returns false if that NAR is already.
func (f *Fetched) begin(s *fetch.Session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.arriving[s.Wanted.NarHash()] != nil {
		return false
	}
	f.arriving[s.Wanted.NarHash()] = s
	close(f.begun)
	f.begun = make(chan struct{})
	return true
}

// end records that a NAR is no longer being received: other peers no longer find it.
func (f *Fetched) end(s *fetch.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.arriving, s.Wanted.NarHash())
}

// Session returns the session that receives the NAR of a path, or nil.
func (f *Fetched) Session(hp store.HashPart) *fetch.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.arriving { // a few
		if s.Wanted.Path().HashPart() == hp {
			return s
		}
	}
	return nil
}

// Await waits for the session that receives a NAR. It returns nil if there is none until the NAR is no longer fetched,
// or ctx ends, or if the NAR is received for another path.
func (f *Fetched) Await(ctx context.Context, m trust.Mapping) *fetch.Session {
	ended := f.shared.Running(m.NarHash())
	for {
		f.mu.Lock()
		s, begun := f.arriving[m.NarHash()], f.begun
		f.mu.Unlock()
		switch {
		case s != nil && s.Wanted.Path() == m.Path():
			return s
		case s != nil || ended == nil:
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
func (f *Fetched) Partial(hp store.HashPart) serve.Partial {
	if s := f.Session(hp); s != nil {
		return s
	}
	return nil
}

// Has implements [serve.Arriving].
func (f *Fetched) Has(nar store.Hash) bool { return f.spool.Has(nar) }

// Info implements [store.Source].
func (f *Fetched) Info(_ context.Context, hp store.HashPart) (store.Info, error) {
	if info, ok := f.spooled(hp); ok {
		return info, nil
	}
	if s := f.Session(hp); s != nil && s.PassesOn() {
		return s.Wanted.Info(), nil
	}
	if info, ok := f.spooled(hp); ok { // a session ends once its NAR is in the spool
		return info, nil
	}
	return store.Info{}, fmt.Errorf("%s: not in the spool: %w", hp, store.ErrNotFound)
}

// spooled returns the narinfo of a path with a NAR in the spool, and forgets it if the NAR is gone.
func (f *Fetched) spooled(hp store.HashPart) (store.Info, bool) {
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
func (f *Fetched) NAR(_ context.Context, info store.Info) (store.NAR, error) {
	sp, ok := f.spool.Get(info.NarHash)
	if !ok {
		return nil, fmt.Errorf("%s: not in the spool: %w", info.Path, store.ErrNotFound)
	}
	return sp, nil
}
