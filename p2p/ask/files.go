package ask

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// Files asks all neighbours for a path that is the file, and returns what they claim: first the claim that most neighbours
// make, and at most [maxFileClaims]. Nothing but the NAR shows whether a claim is true. The error wraps [store.ErrNotFound]
// if there is none.
func (ls *Lookups) Files(ctx context.Context, f trust.File) ([]trust.Mapping, error) {
	select {
	case ls.files <- struct{}{}:
		defer func() { <-ls.files }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w: %w", f, store.ErrNotFound, ctx.Err())
	}
	var (
		asked sync.WaitGroup
		mu    sync.Mutex // guards the next two
		found = map[fileClaim]trust.Mapping{}
		makes = map[fileClaim]int{}
	)
	for _, nb := range ls.Neighbours.All() {
		if nb.IsLate() {
			continue
		}
		asked.Go(func() {
			m, ok := ls.askFile(ctx, nb, f)
			if !ok {
				return
			}
			claim := fileClaim{m.Path(), m.NarHash(), m.NarSize()}
			mu.Lock()
			defer mu.Unlock()
			found[claim] = m
			makes[claim]++
		})
	}
	asked.Wait()
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no neighbour has it: %w", f, store.ErrNotFound)
	}
	claims := slices.SortedFunc(maps.Keys(found), func(a, b fileClaim) int { return cmp.Compare(makes[b], makes[a]) })
	var out []trust.Mapping
	for _, claim := range claims[:min(len(claims), maxFileClaims)] {
		out = append(out, found[claim])
	}
	return out, nil
}

// A fileClaim tells claims about a file apart.
type fileClaim struct {
	path store.Path
	nar  store.Hash
	size int64
}

// askFile returns a neighbour's claim if its path follows from the content, and the neighbour is relied on.
func (ls *Lookups) askFile(ctx context.Context, nb *peers.Neighbour, f trust.File) (trust.Mapping, bool) {
	text, err := nb.AskFile(ctx, f, peers.BusyTimeout)
	if err != nil {
		ls.Log.Debug("neighbour did not answer", zap.Stringer("peer", nb.ID), zap.Error(err))
	}
	if text == "" {
		return trust.Mapping{}, false
	}
	m, err := ls.checkFile(f, text)
	if err != nil { // no honest peer says that
		ls.Ledger.Refuse(err)
		ls.Ledger.Strike(nb.ID, err)
		return trust.Mapping{}, false
	}
	return m, ls.Ledger.Unreliable(nb.Tally, m.Path().HashPart(), m.NarHash()) == ""
}

// checkFile returns the mapping of a claim about a file. Its path must follow from the content address asked for.
func (ls *Lookups) checkFile(f trust.File, text string) (trust.Mapping, error) {
	info, err := store.ParseInfo(text)
	if err != nil {
		return trust.Mapping{}, err
	}
	if info.CA != f.String() || len(info.Signatures) > 0 {
		return trust.Mapping{}, fmt.Errorf("asked for %s, got %s: %w", f, info.Path, peers.ErrName)
	}
	return ls.Secrets.Trusted.Check(info) // without a signature the address must yield the path
}
