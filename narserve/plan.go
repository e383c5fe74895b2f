package narserve

import (
	"cmp"
	"container/heap"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"narbor/store"
	"narbor/trust"
)

const (
	// maxMappings bounds the memory of mappings for which Nix has yet to fetch the NAR. Nix asks for all narinfos
	// of a closure before its first NAR; a desktop system has about 3,000 paths. Forgetting one costs a question
	// to the sources, no more.
	maxMappings = 4096
	// aheadFresh is how recently Nix must have asked for a narinfo for its NAR to be expected: Nix asks for the
	// narinfos of a whole closure in one go, and then for the NARs.
	aheadFresh = 2 * time.Minute
	// aheadSpread is from how many of the next NARs every second one is taken by chance. Machines that want the same
	// closure at the same time so fetch different parts of it from where it is, and the rest from each other.
	aheadSpread = 64
)

// A plan is what Nix is expected to ask for, and what of it is in the spool before Nix asks. It has no lock and no
// clock; chance picks among the next NARs, see [aheadSpread].
type plan struct {
	budget   int64 // bytes that may be fetched and not yet asked for, see fits; 0 or less: nothing is fetched ahead
	expected map[store.HashPart]expectation
	queue    []trust.Mapping // of expected, in the order that Nix will ask; found anew if stale
	stale    bool
	byChance bool                     // whether the last one was taken by chance
	ready    map[store.HashPart]int64 // sizes of NARs that are here, or coming, and not yet asked for
	pending  int64                    // their sum
	fetched  int64                    // bytes fetched ahead since the start
	used     int64                    // of these, what Nix asked for
}

// An expectation is a mapping that Nix was told of, and may ask the NAR of.
type expectation struct {
	m  trust.Mapping
	at time.Time
}

// expect records that Nix has got a narinfo, and so may ask for its NAR.
func (p *plan) expect(m trust.Mapping, now time.Time) {
	if len(p.expected) >= maxMappings { // dry runs, mostly
		maps.DeleteFunc(p.expected, func(_ store.HashPart, e expectation) bool { return now.Sub(e.at) > aheadFresh })
	}
	if p.budget <= 0 || len(p.expected) >= maxMappings {
		return
	}
	if _, here := p.ready[m.Path().HashPart()]; !here {
		p.expected[m.Path().HashPart()] = expectation{m, now}
		p.stale = true
	}
}

// asked records that Nix asks for a NAR.
func (p *plan) asked(hp store.HashPart) {
	delete(p.expected, hp)
	p.used += p.remove(hp)
}

// remove takes a NAR out of those that are ready, and returns its size; 0 if it is not.
func (p *plan) remove(hp store.HashPart) int64 {
	size := p.ready[hp]
	delete(p.ready, hp)
	p.pending -= size
	return size
}

// next returns what to fetch next, if there is something, and the budget leaves room for it.
func (p *plan) next(now time.Time) (trust.Mapping, bool) {
	if p.stale {
		p.queue = order(p.expected, now.Add(-aheadFresh))
		p.stale = false
	}
	for len(p.queue) > 0 && !p.isExpected(p.queue[0]) { // Nix was faster
		p.queue = p.queue[1:]
	}
	if len(p.queue) == 0 || !p.fits(p.queue[0]) { // others would take its room again and again, until Nix waits for it
		return trust.Mapping{}, false
	}
	i := 0
	if p.byChance = !p.byChance; p.byChance && p.pending > 0 {
		i = rand.IntN(min(len(p.queue), aheadSpread))
	}
	if m := p.queue[i]; !p.isExpected(m) || p.pending+m.NarSize() > p.budget/2 { // the path that Nix asks for last stays longest
		i = 0
	}
	m := p.queue[i]
	p.queue = slices.Delete(p.queue, i, i+1)
	delete(p.expected, m.Path().HashPart())
	p.ready[m.Path().HashPart()] = m.NarSize()
	p.pending += m.NarSize()
	return m, true
}

func (p *plan) isExpected(m trust.Mapping) bool {
	_, ok := p.expected[m.Path().HashPart()]
	return ok
}

// fits says whether the budget leaves room for m. A large one needs no more than half of it, or it would have to wait
// until Nix has taken all the others, and then Nix for it.
func (p *plan) fits(m trust.Mapping) bool {
	return p.pending == 0 || p.pending+min(m.NarSize(), p.budget/2) <= p.budget
}

// came records how a fetch ended. One that failed is left to Nix, which will be told then.
func (p *plan) came(m trust.Mapping, err error) {
	if err == nil {
		p.fetched += m.NarSize()
	} else {
		p.remove(m.Path().HashPart())
	}
}

// clear forgets all of it: NARs that were fetched in vain stay in the spool until their space is needed.
func (p *plan) clear() {
	clear(p.expected)
	clear(p.ready)
	p.queue, p.pending = nil, 0
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
