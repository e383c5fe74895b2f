package narserve

import (
	"context"
	"errors"
	"sync"

	"narbor/store"
)

// fetchKey names a fetch. The hash part belongs to it because a content-addressed path is checked by its name too.
type fetchKey struct {
	hashPart store.HashPart
	narHash  store.Hash
}

// maxMalformed bounds what is remembered of malformed NARs. An upstream that signs one is a rarity; one that signs
// more than these costs fetches in vain, no more.
const maxMalformed = 1000

// fetches makes requests for one NAR share one fetch, and fetches none again that is malformed: its bytes are what was
// signed, so they would be the same. The zero value is ready.
type fetches struct {
	mu        sync.Mutex // guards the rest, and the fields of every flight
	running   map[fetchKey]*flight
	malformed map[fetchKey]error
}

// A flight is one fetch and those who wait for it.
type flight struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{} // closed when the fetch has ended; spooled and err are set then
	spooled *store.Spooled
	err     error
}

// do returns what fetch does, or what a fetch that is running already will. The caller closes the handle, which is
// its own. The context of fetch is no request's: it is cancelled when the last waiter has gone, or after
// fetchTimeout.
func (f *fetches) do(ctx context.Context, key fetchKey, fetch func(context.Context) (*store.Spooled, error)) (*store.Spooled, error) {
	f.mu.Lock()
	if err := f.malformed[key]; err != nil {
		f.mu.Unlock()
		return nil, err
	}
	fl := f.running[key]
	if fl == nil {
		fl = f.start(key, fetch)
	}
	fl.waiters++
	f.mu.Unlock()
	defer f.leave(key, fl)
	select {
	case <-fl.done:
		if fl.err != nil {
			return nil, fl.err
		}
		return fl.spooled.Retain(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start begins a fetch. f.mu is held.
func (f *fetches) start(key fetchKey, fetch func(context.Context) (*store.Spooled, error)) *flight {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	fl := &flight{cancel: cancel, done: make(chan struct{})}
	if f.running == nil {
		f.running = map[fetchKey]*flight{}
	}
	f.running[key] = fl
	go func() {
		sp, err := guard(func() (*store.Spooled, error) { return fetch(ctx) })
		f.mu.Lock()
		fl.spooled, fl.err = sp, err
		if errors.Is(err, store.ErrMalformed) {
			f.remember(key, err)
		}
		close(fl.done)
		f.unlockAndTidy(key, fl)
	}()
	return fl
}

// remember keeps a NAR from being fetched again. f.mu is held.
func (f *fetches) remember(key fetchKey, malformed error) {
	if f.malformed == nil || len(f.malformed) >= maxMalformed {
		f.malformed = map[fetchKey]error{}
	}
	f.malformed[key] = malformed
}

// leave takes a waiter off. f.mu is not held.
func (f *fetches) leave(key fetchKey, fl *flight) {
	f.mu.Lock()
	fl.waiters--
	f.unlockAndTidy(key, fl)
}

// unlockAndTidy gives f.mu back. It cancels a flight for which nobody waits, so that nobody may join it any more, and
// closes its handle once it has ended.
func (f *fetches) unlockAndTidy(key fetchKey, fl *flight) {
	ended := false
	select {
	case <-fl.done:
		ended = true
	default:
	}
	var last *store.Spooled
	if fl.waiters == 0 {
		fl.cancel()
		if f.running[key] == fl {
			delete(f.running, key)
		}
		if ended {
			last, fl.spooled = fl.spooled, nil
		}
	}
	f.mu.Unlock()
	if last != nil {
		_ = last.Close() // was only held, for the waiters to get theirs
	}
}
