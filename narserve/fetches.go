package narserve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

const (
	// lingerTime is the time for which a fetch continues after its last request has hung up. Nix retries four times,
	// after at most 3 s each, and an interrupted build is often restarted within seconds. Later requests resume the
	// draft in the spool, so a longer time would only load the link for NARs that may not be wanted.
	lingerTime = 30 * time.Second
	// maxLingering bounds the fetches that go on without a request: as many NARs as Nix fetches at once. Beyond it, a
	// fetch ends with its last request.
	maxLingering = 16
)

// fetchKey names a fetch. The hash part belongs to it because a content-addressed path is checked by its name too.
type fetchKey struct {
	hashPart store.HashPart
	narHash  store.Hash
}

// maxMalformed bounds the malformed NARs that are remembered. An upstream that signs one is a rarity; one that signs
// more than these costs fetches in vain, no more.
const maxMalformed = 1000

// fetches makes requests for one NAR share one fetch, and fetches none again that is malformed: its bytes are what was
// signed, so they would be the same. With fetch it is ready.
type fetches struct {
	fetch func(context.Context, trust.Mapping) (*spool.NAR, error) // returns the NAR of a mapping, which the caller closes

	mu        sync.Mutex // guards the rest, and the fields of every flight
	running   map[fetchKey]*flight
	lingering int // flights with a timer
	malformed map[fetchKey]error
	closed    bool

	all sync.WaitGroup // of the fetches, and of what enter has let in
}

// enter has close wait until the caller calls all.Done. It fails after close.
func (f *fetches) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errClosed
	}
	f.all.Add(1)
	return nil
}

// close ends all fetches, and returns when they have ended, and what enter has let in. None begins afterwards.
func (f *fetches) close() {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.running {
		f.attend(fl)
		f.drop(fl)
	}
	f.mu.Unlock()
	f.all.Wait()
}

// A flight is one fetch and the requests that wait for it.
type flight struct {
	of      *fetches
	key     fetchKey
	waiters int
	linger  *time.Timer // ends the fetch; nil while there are waiters
	cancel  context.CancelFunc
	done    chan struct{} // closed when the fetch has ended; spooled and err are set then
	spooled *spool.NAR
	err     error
}

// do returns the NAR of a mapping, fetching it unless that is going on already. The caller closes it.
func (f *fetches) do(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	fl, err := f.join(m)
	if err != nil {
		return nil, err
	}
	return fl.wait(ctx)
}

// join returns the flight of a NAR, which it begins unless there is one. The caller calls wait. The context of the
// fetch is no request's: it is cancelled when the last waiter has gone and none has come for lingerTime.
func (f *fetches) join(m trust.Mapping) (*flight, error) {
	key := fetchKey{m.Path().HashPart(), m.NarHash()}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.malformed[key]; err != nil {
		return nil, err
	}
	if f.closed {
		return nil, errClosed
	}
	if fl := f.running[key]; fl != nil {
		fl.waiters++
		f.attend(fl)
		return fl, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	fl := &flight{of: f, key: key, waiters: 1, cancel: cancel, done: make(chan struct{})}
	if f.running == nil {
		f.running = map[fetchKey]*flight{}
	}
	f.running[key] = fl
	f.all.Go(func() {
		sp, err := guard(func() (*spool.NAR, error) { return f.fetch(ctx, m) })
		f.mu.Lock()
		if err != nil && f.closed && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errClosed, err)
		}
		fl.spooled, fl.err = sp, err
		if errors.Is(err, store.ErrMalformed) {
			f.remember(key, err)
		}
		close(fl.done)
		f.unlockAndTidy(fl)
	})
	return fl, nil
}

// wait returns the NAR once the fetch has ended, or fails when ctx ends. It takes the caller off the flight. The caller
// closes the handle, which is its own.
func (fl *flight) wait(ctx context.Context) (*spool.NAR, error) {
	defer func() {
		fl.of.mu.Lock()
		fl.waiters--
		fl.of.unlockAndTidy(fl)
	}()
	select {
	case <-fl.done:
	case <-ctx.Done():
		select { // it may have ended at that very moment
		case <-fl.done:
		default:
			return nil, ctx.Err()
		}
	}
	if fl.err != nil {
		return nil, fl.err
	}
	return fl.spooled.Retain(), nil
}

// refused returns why a NAR is not fetched again; nil if it may be.
func (f *fetches) refused(key fetchKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.malformed[key]
}

// remember keeps a NAR from being fetched again. f.mu is held.
func (f *fetches) remember(key fetchKey, malformed error) {
	if f.malformed == nil || len(f.malformed) >= maxMalformed {
		f.malformed = map[fetchKey]error{}
	}
	f.malformed[key] = malformed
}

// attend records that a flight has ended, or has a waiter again. f.mu is held.
func (f *fetches) attend(fl *flight) {
	if fl.linger != nil {
		fl.linger.Stop()
		fl.linger = nil
		f.lingering--
	}
}

// unlockAndTidy gives f.mu back. Of a flight without waiters, it closes the handle if it has ended, and otherwise sees
// to it that it is cancelled in time.
func (f *fetches) unlockAndTidy(fl *flight) {
	var last *spool.NAR
	if fl.waiters == 0 {
		select {
		case <-fl.done:
			f.attend(fl)
			f.drop(fl)
			last, fl.spooled = fl.spooled, nil
		default:
			f.abandon(fl)
		}
	}
	f.mu.Unlock()
	if last != nil {
		_ = last.Close() // was only held, for the waiters to get theirs
	}
}

// abandon cancels a flight without waiters after lingerTime, or at once if too many linger already. f.mu is held.
func (f *fetches) abandon(fl *flight) {
	if f.lingering >= maxLingering || f.running[fl.key] != fl {
		f.drop(fl)
		return
	}
	f.lingering++
	var timer *time.Timer
	timer = time.AfterFunc(lingerTime, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if fl.linger == timer { // otherwise a waiter came at that very moment
			f.attend(fl)
			f.drop(fl)
		}
	})
	fl.linger = timer
}

// drop cancels a flight, so that no request joins it any more. f.mu is held.
func (f *fetches) drop(fl *flight) {
	fl.cancel()
	if f.running[fl.key] == fl {
		delete(f.running, fl.key)
	}
}
