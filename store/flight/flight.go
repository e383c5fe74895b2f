// Package flight is for work that several callers share or that outlasts them. With a [Group], callers that want the
// same thing at the same time share one run of a function. A [Life] ends what outlasts its callers, and waits for it.
package flight

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// cancelledTime is how long a run waits for the end of the one before it for the same key, which was cancelled. Longer
// takes only what takes no notice of its context, for example a read from a file server that hangs.
const cancelledTime = 10 * time.Second

// A Handle is one of several holds on the same thing. Each is closed once.
type Handle[V any] interface {
	Retain() V // returns a handle more
	Close() error
}

// A Call is a caller's way to get a value.
type Call[V any] struct {
	Name   any                                  // comparable; calls with equal names do the same, and end with the same context
	Run    func(ctx context.Context) (V, error) // does not panic
	Check  func(V) error                        // of a value that a call of another name has got; nil accepts it
	Linger time.Duration                        // for how long after the caller the run goes on without callers
	First  bool                                 // begins a run, and joins none
}

// A Group has at most one run for each key at a time. It may be used concurrently, and is not copied.
type Group[K comparable, V Handle[V]] struct {
	Here         func(K) (V, bool) // returns a value for which no call has to be run; nil is that there is none
	MaxLingering int               // of the runs without callers

	mu        sync.Mutex // guards the rest, and the fields of every run
	runs      map[K]*run[V]
	lingering int // runs with a timer
}

// A run is the calls of those that wait for a value, one after the other until one succeeds.
type run[V any] struct {
	calls   []*waiting[V] // the one that is running first
	waiters int
	linger  *time.Timer        // ends the run; nil while there are waiters
	until   time.Time          // until then it goes on without waiters: as long as one that has left has asked for
	cancel  context.CancelFunc // ends the call that is running; nil if none is
	dropped bool               // cancelled: nothing joins it any more
	done    chan struct{}      // closed when it has ended; the rest is set then
	value   V
	by      *waiting[V] // got the value; nil if it was here
	ok      bool        // there is a value
}

// waiting is a call of a run, with the number of its callers.
type waiting[V any] struct {
	Call[V]
	ctx     context.Context // ends the call
	waiters int
	err     error // set when the run is done
}

// A Waiter is a caller that has joined a run. It calls Wait once.
type Waiter[K comparable, V Handle[V]] struct {
	group *Group[K, V]
	key   K
	run   *run[V]
	of    *waiting[V]
	call  Call[V]
	ctx   context.Context
}

// Join has the caller take part in the run of a key, and begins one unless there is one. A run that was cancelled ends
// before the next begins, unless that takes longer than 10 s. If the calls before the caller's fail, its own is run,
// with a context that ends with ctx or with the run; of calls of one name, the first counts. When ctx ends, the caller
// waits no longer. Join returns nil if the call is to be the first and is not.
func (g *Group[K, V]) Join(ctx context.Context, key K, call Call[V]) *Waiter[K, V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.runs[key]
	if r == nil || r.dropped {
		before := r
		r = &run[V]{done: make(chan struct{})}
		if g.runs == nil {
			g.runs = map[K]*run[V]{}
		}
		g.runs[key] = r
		go func() {
			if before != nil {
				select {
				case <-before.done:
				case <-time.After(cancelledTime):
				}
			}
			if g.Here != nil {
				if v, ok := g.Here(key); ok {
					g.end(key, r, v, nil)
					return
				}
			}
			for ctx, c := g.next(key, r); c != nil; ctx, c = g.next(key, r) {
				var v V
				if v, c.err = c.Run(ctx); c.err == nil {
					g.end(key, r, v, c)
					return
				}
			}
		}()
	} else if call.First {
		return nil
	}
	g.attend(r)
	i := slices.IndexFunc(r.calls, func(c *waiting[V]) bool { return c.Name == call.Name })
	if i < 0 {
		i = len(r.calls)
		r.calls = append(r.calls, &waiting[V]{Call: call, ctx: ctx})
	}
	r.waiters++
	r.calls[i].waiters++
	return &Waiter[K, V]{g, key, r, r.calls[i], call, ctx}
}

// Done is closed when the run has ended.
func (w *Waiter[K, V]) Done() <-chan struct{} { return w.run.done }

// Wait returns the caller's own handle of the value once the run has ended, or fails when ctx ends, or the context with
// which the caller has joined; then the error is its cause. The caller then has left the run.
func (w *Waiter[K, V]) Wait(ctx context.Context) (v V, err error) {
	defer w.leave()
	select {
	case <-w.run.done:
	case <-ctx.Done():
	case <-w.ctx.Done():
	}
	select {
	case <-w.run.done: // maybe at the very moment at which a context has ended
	default:
		return v, cmp.Or(context.Cause(w.ctx), ctx.Err())
	}
	if !w.run.ok {
		return v, cmp.Or(context.Cause(w.ctx), w.of.err)
	}
	if w.run.by != w.of && w.call.Check != nil {
		if err := w.call.Check(w.run.value); err != nil {
			return v, err
		}
	}
	return w.run.value.Retain(), nil
}

// Running returns a channel that is closed when the run of a key has ended; nil is that there is none.
func (g *Group[K, V]) Running(key K) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.runs[key]; r != nil {
		return r.done
	}
	return nil
}

// next returns the call that is to be run, with its context. If there is none, the run has ended.
func (g *Group[K, V]) next(key K, r *run[V]) (context.Context, *waiting[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.cancel != nil { // that of the call that has failed
		r.cancel()
		r.calls, r.cancel = r.calls[1:], nil
	}
	for len(r.calls) > 0 && !r.dropped {
		if c := r.calls[0]; c.waiters > 0 {
			ctx, cancel := context.WithCancel(c.ctx)
			r.cancel = cancel
			return ctx, c
		}
		r.calls = r.calls[1:]
	}
	g.close(key, r)
	return nil, nil
}

// end ends a run with the value that a call has got, or that was here.
func (g *Group[K, V]) end(key K, r *run[V], v V, by *waiting[V]) {
	g.mu.Lock()
	r.value, r.by, r.ok = v, by, true
	if r.cancel != nil {
		r.cancel()
	}
	g.close(key, r)
	wanted := r.waiters > 0
	g.mu.Unlock()
	if !wanted {
		_ = v.Close()
	}
}

// close makes it known that a run has ended. g.mu is held.
func (g *Group[K, V]) close(key K, r *run[V]) {
	g.attend(r)
	if g.runs[key] == r {
		delete(g.runs, key)
	}
	close(r.done)
}

// leave takes the caller off its run. The last one closes the value, or sees to it that the run ends in time.
func (w *Waiter[K, V]) leave() {
	g, r := w.group, w.run
	g.mu.Lock()
	w.of.waiters--
	r.waiters--
	if until := time.Now().Add(w.call.Linger); until.After(r.until) {
		r.until = until
	}
	last := r.waiters == 0
	select {
	case <-r.done:
		last = last && r.ok
	default:
		if last {
			g.abandon(r)
		}
		last = false
	}
	g.mu.Unlock()
	if last {
		_ = r.value.Close() // was only held, for the callers to get their own
	}
}

// abandon cancels a run without waiters when its time is over, or at once if too many linger already. g.mu is held.
func (g *Group[K, V]) abandon(r *run[V]) {
	after := time.Until(r.until)
	if after <= 0 || g.lingering >= g.MaxLingering {
		r.drop()
		return
	}
	g.lingering++
	var timer *time.Timer
	timer = time.AfterFunc(after, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if r.linger == timer { // otherwise a waiter came at that very moment
			g.attend(r)
			r.drop()
		}
	})
	r.linger = timer
}

// attend records that a run has ended, or has a waiter again. g.mu is held.
func (g *Group[K, V]) attend(r *run[V]) {
	if r.linger != nil {
		r.linger.Stop()
		r.linger = nil
		g.lingering--
	}
}

// drop cancels a run. The group's mutex is held.
func (r *run[V]) drop() {
	r.dropped = true
	if r.cancel != nil {
		r.cancel()
	}
}
