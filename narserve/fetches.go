package narserve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"narbor/store"
	"narbor/store/flight"
	"narbor/store/spool"
	"narbor/trust"
)

const (
	// lingerTime is the time for which a fetch continues after its last request has hung up. Nix retries four times,
	// after at most 3 s each, and an interrupted build is often restarted within seconds. Later requests resume the
	// draft in the spool, so a longer time would only load the link for NARs that may not be wanted.
	lingerTime = 30 * time.Second
	// maxMalformed bounds the malformed NARs that are remembered. An upstream that signs one is a rarity; one that signs
	// more than these costs fetches in vain, no more.
	maxMalformed = 1000
)

// fetchKey names a NAR as a request does. The hash part belongs to it because a content-addressed path is checked by its
// name too.
type fetchKey struct {
	hashPart store.HashPart
	narHash  store.Hash
}

// fetches has requests for a NAR take part in the one fetch of it, and fetches none again that is malformed: its bytes are
// what was signed, so they would be the same.
type fetches struct {
	shared *spool.Fetches
	fetch  func(context.Context, trust.Mapping) (*spool.NAR, error) // returns the NAR of a mapping, which the caller closes
	life   *flight.Life                                             // of what fetch does, and of the requests that wait

	mu        sync.Mutex // guards malformed
	malformed map[fetchKey]error
}

func newFetches(shared *spool.Fetches, fetch func(context.Context, trust.Mapping) (*spool.NAR, error)) *fetches {
	return &fetches{shared: shared, fetch: fetch, life: flight.NewLife(), malformed: map[fetchKey]error{}}
}

// enter has close wait until the caller calls life.Leave. It fails after close.
func (f *fetches) enter() error {
	if !f.life.Enter() {
		return errClosed
	}
	return nil
}

// close ends all that requests have begun, and their waiting, and returns when it has ended, and what enter has let in.
// None begins afterwards.
func (f *fetches) close() { f.life.End(errClosed) }

// do returns the NAR of a mapping, fetching it unless that is going on already. The caller closes it.
func (f *fetches) do(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	fetch, err := f.join(m)
	if err != nil {
		return nil, err
	}
	return fetch.Wait(ctx)
}

// join takes part in the fetch of a NAR, which it begins unless there is one. The caller calls Wait. If a fetch that was
// begun for a neighbour fails, or one for another path, the caller's begins then.
func (f *fetches) join(m trust.Mapping) (*spool.Fetch, error) {
	key := fetchKey{m.Path().HashPart(), m.NarHash()}
	if err := f.refused(key); err != nil {
		return nil, err
	}
	return f.shared.Join(f.life.Context(), m.NarHash(), spool.Call{Name: key.hashPart, Linger: lingerTime,
		Check: func(sp *spool.NAR) error {
			_, err := guard(func() (struct{}, error) { return struct{}{}, m.CheckNAR(sp) })
			if err != nil {
				return fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
			}
			return nil
		},
		Run: func(ctx context.Context) (*spool.NAR, error) {
			if err := f.enter(); err != nil {
				return nil, err
			}
			defer f.life.Leave()
			sp, err := guard(func() (*spool.NAR, error) { return f.fetch(ctx, m) })
			if errors.Is(err, store.ErrMalformed) {
				f.remember(key, err)
			}
			return sp, err
		}}), nil
}

// refused returns why a NAR is not fetched again; nil if it may be.
func (f *fetches) refused(key fetchKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.malformed[key]
}

// remember keeps a NAR from being fetched again.
func (f *fetches) remember(key fetchKey, malformed error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.malformed) >= maxMalformed {
		clear(f.malformed)
	}
	f.malformed[key] = malformed
}
