package p2p

import (
	"context"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"narbor/store"
	"narbor/trust"
)

// fetched is the NARs in the spool that came from neighbours, as a [store.Source]: they can be passed on before Nix
// has taken them into its store, so that a crowd that wants the same closure feeds itself. What may be shared is
// decided as for every source, by the signatures.
type fetched struct {
	spool *store.Spool
	infos *lru.Cache[store.HashPart, store.Info]
}

func newFetched(spool *store.Spool) (*fetched, error) {
	infos, err := lru.New[store.HashPart, store.Info](maxFindings)
	if err != nil {
		return nil, err
	}
	return &fetched{spool, infos}, nil
}

// add takes note that the NAR of m is in the spool.
func (f *fetched) add(m trust.Mapping) { f.infos.Add(m.Path().HashPart(), m.Info()) }

// Info implements [store.Source].
func (f *fetched) Info(_ context.Context, hp store.HashPart) (store.Info, error) {
	info, ok := f.infos.Peek(hp)
	if ok && f.spool.Has(info.NarHash) {
		return info, nil
	}
	f.infos.Remove(hp)
	return store.Info{}, fmt.Errorf("%s: not in the spool: %w", hp, store.ErrNotFound)
}

// NAR implements [store.Source].
func (f *fetched) NAR(_ context.Context, info store.Info) (store.NAR, error) {
	sp, ok := f.spool.Get(info.NarHash)
	if !ok {
		return nil, fmt.Errorf("%s: not in the spool: %w", info.Path, store.ErrNotFound)
	}
	return sp, nil
}
