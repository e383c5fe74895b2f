package narserve

import (
	"cmp"
	"container/heap"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"narbor/store"
	"narbor/trust"
)

const (
	// aheadFresh is how recently Nix must have asked for a narinfo for its NAR to be expected: Nix asks for the
	// narinfos of a whole closure in one go, and then for the NARs.
	aheadFresh = 2 * time.Minute
	// aheadParallel is how many NARs are fetched ahead at once: small ones cost a round trip each, and more at once
	// would delay the one that Nix wants next.
	aheadParallel = 4
	// aheadSpread is from how many of the next NARs every second one is taken by chance. Machines that want the same
	// closure at the same time so fetch different parts of it from where it is, and the rest from each other.
	aheadSpread = 64
	// aheadIdle is how long Nix may be silent before it is taken to have gone. It needs that long to unpack a large
	// NAR to a slow disk; while one is on its way to it, it is not silent.
	aheadIdle = 30 * time.Second
)

// An ahead fetches into the spool what Nix will ask for next, so that Nix does not wait for the network while it
// could unpack. It begins with the first NAR of a closure: a dry run, which asks for narinfos alone, fetches
// nothing. It ends with the last NAR, or when Nix goes away.
type ahead struct {
	budget int64 // bytes that may be fetched and not yet asked for, see fits; 0 or less: nothing is fetched ahead
	fetch  func(ctx context.Context, m trust.Mapping) error
	wake   chan struct{} // something has changed for the session; has room for one
	closed chan struct{} // no session goes on or begins

	sessions sync.WaitGroup

	mu       sync.Mutex // guards the rest
	session  bool       // a goroutine is at work
	expected map[store.HashPart]expectation
	plan     []trust.Mapping // of expected, in the order that Nix will ask; found anew if stale
	stale    bool
	astray   bool                     // whether the last one was taken by chance
	ready    map[store.HashPart]int64 // sizes of NARs that are here, or coming, and not yet asked for
	pending  int64                    // their sum
	serving  int                      // NARs on their way to Nix
	waiting  int                      // of these, those that Nix waits for
	conns    map[any]bool             // connections that Nix has open, as far as they are told
	told     bool                     // they are
	last     time.Time                // when Nix was last heard of
	fetched  int64                    // bytes fetched ahead since the start
	used     int64                    // of these, what Nix asked for
}

// An expectation is a mapping that Nix was told of, and may ask the NAR of.
type expectation struct {
	m  trust.Mapping
	at time.Time
}

func newAhead(budget int64, fetch func(context.Context, trust.Mapping) error) *ahead {
	return &ahead{budget: budget, fetch: fetch, wake: make(chan struct{}, 1), closed: make(chan struct{}),
		expected: map[store.HashPart]expectation{}, ready: map[store.HashPart]int64{}, conns: map[any]bool{}}
}

// expect records that Nix has got a narinfo, and so may ask for its NAR.
func (a *ahead) expect(m trust.Mapping) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
	if len(a.expected) >= maxMappings { // dry runs, mostly
		maps.DeleteFunc(a.expected, func(_ store.HashPart, e expectation) bool { return a.last.Sub(e.at) > aheadFresh })
	}
	if a.budget <= 0 || len(a.expected) >= maxMappings {
		return
	}
	if _, here := a.ready[m.Path().HashPart()]; !here {
		a.expected[m.Path().HashPart()] = expectation{m, a.last}
		a.stale = true
	}
}

// begin records that Nix asks for a NAR, and sets the session going. The caller calls waited when it is here, or
// will not come, and end when it is through.
func (a *ahead) begin(hp store.HashPart) {
	a.mu.Lock()
	a.serving++
	a.waiting++
	a.last = time.Now()
	delete(a.expected, hp)
	if size, ok := a.ready[hp]; ok {
		delete(a.ready, hp)
		a.pending -= size
		a.used += size
	}
	if !a.session && len(a.expected) > 0 && !a.isClosed() {
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
	a.waiting--
	a.mu.Unlock()
	a.signal()
}

func (a *ahead) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serving--
	a.last = time.Now()
}

// connected records a connection that Nix has opened or closed.
func (a *ahead) connected(conn any, open bool) {
	a.mu.Lock()
	a.told = true
	if open {
		a.conns[conn] = true
	} else {
		delete(a.conns, conn)
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
				a.came(m, err)
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
	if running >= aheadParallel || a.waiting > 0 && running > 0 { // the NARs that Nix waits for have the link
		return trust.Mapping{}, false
	}
	if a.stale {
		a.plan = order(a.expected, time.Now().Add(-aheadFresh))
		a.stale = false
	}
	for len(a.plan) > 0 && !a.isExpected(a.plan[0]) { // Nix was faster
		a.plan = a.plan[1:]
	}
	if len(a.plan) == 0 || !a.fits(a.plan[0]) { // others would take its room again and again, until Nix waits for it
		return trust.Mapping{}, false
	}
	i := 0
	if a.astray = !a.astray; a.astray && a.pending > 0 {
		i = rand.IntN(min(len(a.plan), aheadSpread))
	}
	if m := a.plan[i]; !a.isExpected(m) || a.pending+m.NarSize() > a.budget/2 { // what Nix asks for last stays longest
		i = 0
	}
	m := a.plan[i]
	a.plan = slices.Delete(a.plan, i, i+1)
	delete(a.expected, m.Path().HashPart())
	a.ready[m.Path().HashPart()] = m.NarSize()
	a.pending += m.NarSize()
	return m, true
}

func (a *ahead) isExpected(m trust.Mapping) bool {
	_, ok := a.expected[m.Path().HashPart()]
	return ok
}

// fits says whether the budget leaves room for m. A large one needs no more than half of it, or it would have to wait
// until Nix has taken all the others, and then Nix for it.
func (a *ahead) fits(m trust.Mapping) bool {
	return a.pending == 0 || a.pending+min(m.NarSize(), a.budget/2) <= a.budget
}

// came records how a fetch ended. One that failed is left to Nix, which will be told then.
func (a *ahead) came(m trust.Mapping, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.fetched += m.NarSize()
		return
	}
	if size, ok := a.ready[m.Path().HashPart()]; ok {
		delete(a.ready, m.Path().HashPart())
		a.pending -= size
	}
}

// over reports whether Nix has gone, and if so ends the session: NARs that were fetched in vain stay in the spool until
// their space is needed.
func (a *ahead) over() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	present := len(a.conns) > 0 || !a.told
	if a.serving > 0 || present && time.Since(a.last) < aheadIdle && (len(a.expected) > 0 || len(a.ready) > 0) {
		return false
	}
	a.session = false
	clear(a.expected)
	clear(a.ready)
	a.plan, a.pending = nil, 0
	return true
}

// counts returns how many bytes were fetched ahead since the start, and how many of these Nix has asked for.
func (a *ahead) counts() (fetched, used int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fetched, a.used
}

// wanted is a NAR in [order]: how many of its references come before it.
type wanted struct {
	m        trust.Mapping
	missing  int
	referrer []*wanted
}

// byName is a heap of what Nix could ask for, by the name and then the path.
type byName []*wanted

func (h byName) Len() int      { return len(h) }
func (h byName) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byName) Push(n any)   { *h = append(*h, n.(*wanted)) }
func (h byName) Less(i, j int) bool {
	a, b := h[i].m.Path(), h[j].m.Path()
	return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Base(), b.Base())) < 0
}

func (h *byName) Pop() any {
	last := len(*h) - 1
	n := (*h)[last]
	*h = (*h)[:last]
	return n
}

// order returns the mappings expected since a time in the order that Nix asks for their NARs: references before
// referrers, and by name among those that it could ask for (Nix's PathSubstitutionGoal::key).
func order(expected map[store.HashPart]expectation, since time.Time) []trust.Mapping {
	nodes := map[store.HashPart]*wanted{}
	for hp, e := range expected {
		if e.at.After(since) {
			nodes[hp] = &wanted{m: e.m}
		}
	}
	var could byName
	for hp, n := range nodes {
		for _, r := range n.m.Info().References {
			if ref := nodes[r.HashPart()]; ref != nil && r.HashPart() != hp {
				ref.referrer = append(ref.referrer, n)
				n.missing++
			}
		}
	}
	for _, n := range nodes {
		if n.missing == 0 {
			heap.Push(&could, n)
		}
	}
	var plan []trust.Mapping
	for len(could) > 0 {
		n := heap.Pop(&could).(*wanted)
		plan = append(plan, n.m)
		for _, r := range n.referrer {
			if r.missing--; r.missing == 0 {
				heap.Push(&could, r)
			}
		}
	}
	return plan
}
