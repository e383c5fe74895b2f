package narserve

import (
	"context"
	"sync"
	"time"

	"narbor/store"
	"narbor/trust"
)

const (
	// aheadParallel is how many NARs are fetched ahead at once: small ones cost a round trip each, and more at once
	// would delay the one that Nix wants next.
	aheadParallel = 4
	// aheadIdle is how long Nix may be silent before it is taken to have gone. It needs that long to unpack a large
	// NAR to a slow disk; while one is on its way to it, it is not silent.
	aheadIdle = 30 * time.Second
)

// ahead fetches into the spool what Nix will ask for next, so that Nix does not wait for the network while it
// could unpack. It begins with the first NAR of a closure: a dry run, which asks for narinfos alone, fetches
// nothing. It ends with the last NAR, or when Nix goes away.
type ahead struct {
	fetch  func(ctx context.Context, m trust.Mapping) error
	wake   chan struct{} // something has changed for the session; has room for one
	closed chan struct{} // no session goes on or begins

	sessions sync.WaitGroup

	mu      sync.Mutex // guards the rest
	session bool       // a goroutine is at work
	plan    plan
	nix     presence
}

// A presence shows whether Nix is there, and what it is doing.
type presence struct {
	serving int          // NARs on their way to Nix
	waiting int          // of these, those that Nix waits for
	conns   map[any]bool // connections that Nix has open, as far as they are told
	told    bool         // they are
	last    time.Time    // when Nix was last heard of
}

func newAhead(budget int64, fetch func(context.Context, trust.Mapping) error) *ahead {
	return &ahead{fetch: fetch, wake: make(chan struct{}, 1), closed: make(chan struct{}),
		plan: plan{budget: budget, expected: map[store.HashPart]expectation{}, ready: map[store.HashPart]int64{}},
		nix:  presence{conns: map[any]bool{}}}
}

// expect records that Nix has got a narinfo, and so may ask for its NAR.
func (a *ahead) expect(m trust.Mapping) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nix.last = time.Now()
	a.plan.expect(m, a.nix.last)
}

// begin records that Nix asks for a NAR, and sets the session going. The caller calls waited when it is here, or
// will not come, and end when it is through.
func (a *ahead) begin(hp store.HashPart) {
	a.mu.Lock()
	a.nix.serving++
	a.nix.waiting++
	a.nix.last = time.Now()
	a.plan.asked(hp)
	if !a.session && len(a.plan.expected) > 0 && !a.isClosed() {
		a.session = true
		a.sessions.Go(a.run)
	}
	a.mu.Unlock()
	a.signal()
}

func (a *ahead) isClosed() bool {
	select {
	case <-a.closed:
		return true
	default:
		return false
	}
}

// close ends the session, and returns when its fetches have ended. It is called once.
func (a *ahead) close() {
	a.mu.Lock()
	close(a.closed)
	a.mu.Unlock()
	a.sessions.Wait()
}

func (a *ahead) waited() {
	a.mu.Lock()
	a.nix.waiting--
	a.mu.Unlock()
	a.signal()
}

func (a *ahead) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nix.serving--
	a.nix.last = time.Now()
}

func (a *ahead) connected(conn any, open bool) {
	a.mu.Lock()
	a.nix.told = true
	if open {
		a.nix.conns[conn] = true
	} else {
		delete(a.nix.conns, conn)
	}
	a.mu.Unlock()
	if !open {
		a.signal()
	}
}

func (a *ahead) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run is a session: it fetches until Nix has gone, and returns once all its fetches have ended.
func (a *ahead) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var fetches sync.WaitGroup
	slots := make(chan struct{}, aheadParallel)
	defer fetches.Wait()
	defer cancel()
	idle := time.NewTicker(aheadIdle / 4)
	defer idle.Stop()
	for {
		m, ok := a.next(len(slots))
		if ok {
			slots <- struct{}{}
			fetches.Go(func() {
				_, err := guard(func() (struct{}, error) { return struct{}{}, a.fetch(ctx, m) })
				a.mu.Lock()
				a.plan.came(m, err)
				a.mu.Unlock()
				<-slots
				a.signal()
			})
			continue
		}
		select {
		case <-a.wake:
		case <-idle.C:
		case <-a.closed:
			return
		}
		if a.over() {
			return
		}
	}
}

// next returns what to fetch next, if there is something, and running fetches and the budget leave room for it.
func (a *ahead) next(running int) (trust.Mapping, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if running >= aheadParallel || a.nix.waiting > 0 && running > 0 { // the NARs that Nix waits for have the link
		return trust.Mapping{}, false
	}
	return a.plan.next(time.Now())
}

// over reports whether Nix has gone, and if so ends the session.
func (a *ahead) over() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	present := len(a.nix.conns) > 0 || !a.nix.told
	left := len(a.plan.expected) > 0 || len(a.plan.ready) > 0
	if a.nix.serving > 0 || present && time.Since(a.nix.last) < aheadIdle && left {
		return false
	}
	a.session = false
	a.plan.clear()
	return true
}

// counts returns how many bytes were fetched ahead since the start, and how many of these Nix has asked for.
func (a *ahead) counts() (fetched, used int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.plan.fetched, a.plan.used
}
