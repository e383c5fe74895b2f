package narserve

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"narbor/store"
	"narbor/trust"
)

const (
	// maxPassing bounds the transfers that are known to be under way.
	maxPassing = 256
	// passingIdle is after how long without a block a transfer to a neighbour counts as over: no message ends it.
	passingIdle = 3 * time.Second
	// alikeFor is for how long requests that are alike are one entry among the latest, and alikeAmong of how many of
	// the latest: Nix asks for thousands of paths in a row, and what it got would be lost among them.
	alikeFor, alikeAmong = time.Minute, 4
)

// Accounts keep what passed between Nix, this machine and others: for a year by day, for a day by quarter of an hour,
// and the latest requests and the current transfers one by one. It is never larger than its constants allow. Its methods
// may be called concurrently; none but Save does any I/O.
type Accounts struct {
	file    string                                // "" is none
	origins *lru.Cache[store.Hash, provenance]    // of NARs in the spool
	missed  *lru.Cache[store.HashPart, missCheck] // paths that Nix may be fetching by itself
	missing chan struct{}                         // something is in missed; read by [Server.Run]

	mu        sync.Mutex // guards the rest
	since     time.Time
	note      string
	days      []Day
	quarters  []Quarter
	peers     shares
	names     shares
	requests  []Request // the latest last
	passing   map[passKey]*passing
	serving   int       // requests for NARs that are being answered
	busySince time.Time // when the first of these began
	busySaved int64     // bytes that neighbours have saved since
	changed   bool      // since the file was written
	total     passed    // since the start of the program
	noRoom    time.Time // when a NAR did not fit into the spool, the last time
	tooLarge  time.Time // when one did not that does not fit into the spool at all
	until     time.Time // days[today] is today until then
	today     int
}

// passed is what metrics show.
type passed struct {
	Amounts
	answers map[string]int64 // to questions for a path, by the result, or "timeout"
}

// A provenance is where a NAR came from, and from which peers.
type provenance struct {
	origin store.Origin
	from   []string
}

type passKey struct {
	incoming bool
	path     store.Path
	peer     string // "" if incoming: it may come from several
}

type passing struct {
	size        int64
	bytes       int64
	began, last time.Time
	origins     map[store.Origin]int64 // bytes, if incoming
	peers       map[string]int64       // likewise
}

// NewAccounts returns accounts that are kept in memory alone.
func NewAccounts() *Accounts {
	origins, err := lru.New[store.Hash, provenance](maxMappings)
	if err != nil { // only for a size below 1
		panic(err)
	}
	missed, err := lru.New[store.HashPart, missCheck](maxMissChecks)
	if err != nil {
		panic(err)
	}
	return &Accounts{origins: origins, missed: missed, missing: make(chan struct{}, 1), since: time.Now(), peers: shares{}, names: shares{},
		passing: map[passKey]*passing{},
		total:   passed{answers: map[string]int64{ResultHit: 0, ResultMiss: 0, ResultRejected: 0, resultTimeout: 0}}}
}

// Received records n bytes of a NAR that came here from a peer, or from an upstream of that name, before the NAR
// is verified.
func (a *Accounts) Received(o store.Origin, m trust.Mapping, from string, n int) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pass(passKey{incoming: true, path: m.Path()}, m.NarSize(), now)
	if p == nil {
		return
	}
	p.bytes += int64(n)
	if p.origins == nil {
		p.origins, p.peers = map[store.Origin]int64{}, map[string]int64{}
	}
	p.origins[o] += int64(n)
	p.peers[from] += int64(n)
}

// Sent records n bytes of a NAR that were sent to a peer.
func (a *Accounts) Sent(path store.Path, size int64, to string, n int) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.book(now, Amounts{Sent: int64(n)})
	a.peers.of(to, maxPeers, now).Sent += int64(n)
	a.names.of(packageName(path), maxNames, now).Sent += int64(n)
	if p := a.pass(passKey{path: path, peer: to}, size, now); p != nil {
		p.bytes += int64(n)
	}
}

// Landed records that a NAR is in the spool that was fetched for neighbours, and not for Nix, or that it is not.
func (a *Accounts) Landed(m trust.Mapping, err error) { a.fetched(m, store.FromInternet, err) }

// pass returns a transfer under way, which may begin now; nil if there are too many. The caller holds mu.
func (a *Accounts) pass(key passKey, size int64, now time.Time) *passing {
	p := a.passing[key]
	if p == nil {
		if len(a.passing) >= maxPassing {
			a.sweep(now)
		}
		if len(a.passing) >= maxPassing {
			return nil
		}
		p = &passing{size: size, began: now}
		a.passing[key] = p
	}
	p.last = now
	return p
}

// sweep forgets transfers to neighbours that are over, and the remains of others. The caller holds mu.
func (a *Accounts) sweep(now time.Time) {
	for key, p := range a.passing {
		if idle := now.Sub(p.last); idle > fetchTimeout || !key.incoming && idle > passingIdle {
			delete(a.passing, key)
		}
	}
}

// fetched records that a NAR is in the spool, or will not come. If no sender is recorded, its origin is otherwise.
func (a *Accounts) fetched(m trust.Mapping, otherwise store.Origin, err error) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	key := passKey{incoming: true, path: m.Path()}
	p := a.passing[key]
	delete(a.passing, key)
	if err != nil {
		return
	}
	if p == nil {
		if !a.origins.Contains(m.NarHash()) {
			a.origins.Add(m.NarHash(), provenance{origin: otherwise})
		}
		return
	}
	for id, n := range p.peers {
		a.peers.of(id, maxPeers, now).Received += n
	}
	origin := otherwise
	for o, n := range p.origins {
		if n > p.origins[origin] {
			origin = o
		}
	}
	a.changed = true
	a.origins.Add(m.NarHash(), provenance{origin, most(p.peers)})
}

// most returns the peers that gave most, at most maxFrom of them.
func most(by map[string]int64) []string {
	ids := make([]string, 0, len(by))
	for id := range by {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(by[b], by[a]), cmp.Compare(a, b)) })
	return ids[:min(len(ids), maxFrom)]
}

// begin and end enclose the answer to a request for a NAR.
func (a *Accounts) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.serving++; a.serving == 1 {
		a.busySince, a.busySaved = time.Now(), 0
	}
}

func (a *Accounts) end() {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.serving--; a.serving > 0 {
		return
	}
	took := now.Sub(a.busySince).Seconds()
	a.book(now, Amounts{Seconds: took, SavedSeconds: max(0, float64(a.busySaved)/internetRate-took)})
}

// served records that Nix got n bytes of a NAR, and whether it was to its last. It returns where they came from.
func (a *Accounts) served(m trust.Mapping, n int64, took time.Duration, whole bool) provenance {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	from, ok := a.origins.Get(m.NarHash())
	if !ok {
		from.origin = store.FromStore
	}
	amounts := Amounts{Received: map[store.Origin]int64{from.origin: n}}
	r := Request{Path: m.Path().Base(), Result: ResultHit, Count: 1, Bytes: n, Seconds: took.Seconds(), Origin: from.origin,
		From: from.from}
	if whole {
		amounts.NARs = 1
	} else {
		r.Reason = "broke off"
	}
	a.book(now, amounts)
	if saved := amounts.Saved(); saved > 0 {
		a.names.of(packageName(m.Path()), maxNames, now).Received += saved
		a.busySaved += saved
	}
	a.remember(now, r)
	return from
}

// found records that Nix was told that it can have a path.
func (a *Accounts) found(path store.Path) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.book(now, Amounts{Found: 1})
	a.total.answers[ResultHit]++
	a.remember(now, Request{Path: path.Base(), Result: ResultFound, Count: 1})
}

// notFound records that Nix was told that there is no such path, and why.
func (a *Accounts) notFound(hp store.HashPart, err error) {
	now := time.Now()
	a.miss(hp, now)
	result, reason := why(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteRoom(now, err)
	a.book(now, Amounts{Missed: 1})
	if errors.Is(err, errNoAnswer) {
		a.total.answers[resultTimeout]++
	} else {
		a.total.answers[result]++
	}
	a.remember(now, Request{Path: string(hp), Result: result, Reason: reason, Count: 1})
}

// notServed records that there is no NAR after all.
func (a *Accounts) notServed(m trust.Mapping, took time.Duration, err error) {
	now := time.Now()
	a.miss(m.Path().HashPart(), now)
	result, reason := why(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteRoom(now, err)
	a.remember(now, Request{Path: m.Path().Base(), Result: result, Reason: reason, Count: 1, Seconds: took.Seconds()})
}

// why is the one place that says, in words for people, why Nix did not get a path.
func why(err error) (result, reason string) {
	switch {
	case errors.Is(err, store.ErrMalformed):
		return ResultRejected, "the archive is malformed, though it was signed"
	case errors.Is(err, store.ErrCorrupt):
		return ResultRejected, "the bytes were not those that were signed"
	case errors.Is(err, store.ErrDamaged):
		return ResultRejected, "this machine's own copy is damaged, and no neighbour has it"
	case errors.Is(err, trust.ErrForged):
		return ResultRejected, "a neighbour has it, signed with another key than the one of that name here"
	case errors.Is(err, trust.ErrUntrusted):
		return ResultRejected, "a neighbour has it, but no key that Nix trusts has signed it"
	case errors.Is(err, store.ErrUnreadable):
		return ResultMiss, "an upstream has it, and narbor cannot read it"
	case errors.Is(err, store.ErrTooLarge):
		return ResultMiss, "the archive is larger than the spool; see --spool-size"
	case errors.Is(err, store.ErrNoSpace):
		return ResultMiss, "no room in the spool"
	case errors.Is(err, errNoAnswer):
		return ResultMiss, "no answer in time"
	}
	return ResultMiss, "nobody near has it"
}

// remember puts a request among the latest. The caller holds mu.
func (a *Accounts) remember(now time.Time, r Request) {
	r.Time = now
	for i := len(a.requests) - 1; r.Result != ResultHit && i >= max(0, len(a.requests)-alikeAmong); i-- {
		old := &a.requests[i]
		if old.Result == r.Result && old.Reason == r.Reason && now.Sub(old.Time) < alikeFor {
			old.Time, old.Path, old.Count, old.Seconds = now, r.Path, old.Count+1, old.Seconds+r.Seconds
			return
		}
	}
	if len(a.requests) >= maxRequests {
		a.requests = slices.Delete(a.requests, 0, len(a.requests)-maxRequests+1)
	}
	a.requests = append(a.requests, r)
}

// book adds amounts to today and to this quarter of an hour. The caller holds mu.
func (a *Accounts) book(now time.Time, amounts Amounts) {
	a.changed = true
	a.total.add(amounts)
	if !now.Before(a.until) || now.Before(a.until.AddDate(0, 0, -1)) {
		a.turnDay(now)
	}
	a.days[a.today].add(amounts)
	start := now.Truncate(quarter)
	if n := len(a.quarters); n == 0 || !a.quarters[n-1].Start.Equal(start) {
		old := func(q Quarter) bool { return start.Sub(q.Start) >= quarters*quarter || !q.Start.Before(start) }
		a.quarters = append(slices.DeleteFunc(a.quarters, old), Quarter{Start: start}) // later ones are from a wrong clock
	}
	a.quarters[len(a.quarters)-1].add(amounts)
}

// turnDay finds or makes the day that it is. The caller holds mu.
func (a *Accounts) turnDay(now time.Time) {
	year, month, day := now.Date()
	a.until = time.Date(year, month, day+1, 0, 0, 0, 0, now.Location())
	date := now.Format(time.DateOnly)
	at, found := slices.BinarySearchFunc(a.days, date, func(d Day, date string) int { return cmp.Compare(d.Date, date) })
	if !found {
		a.days = slices.Insert(a.days, at, Day{Date: date})
	}
	for ; len(a.days) > maxDays && at > 0; at-- {
		a.days = a.days[1:]
	}
	a.days = a.days[:min(len(a.days), maxDays)]
	a.today = at
}

// sinceStart returns what passed since the start of the program.
func (a *Accounts) sinceStart() passed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return passed{a.total.clone(), maps.Clone(a.total.answers)}
}

// Account returns all that is known at this moment.
func (a *Accounts) Account() Account {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep(now)
	out := Account{Schema: accountSchema, Since: a.since, Note: a.note, Days: make([]Day, len(a.days)), Quarters: make([]Quarter, quarters),
		Peers: a.peers.list(), Names: a.names.list(), Requests: slices.Clone(a.requests), Now: []Transfer{}}
	for i, d := range a.days {
		out.Days[i] = Day{d.Date, d.clone()}
	}
	first := now.Truncate(quarter).Add(-(quarters - 1) * quarter)
	for i := range out.Quarters {
		out.Quarters[i] = Quarter{Start: first.Add(time.Duration(i) * quarter), Amounts: Amounts{}.clone()}
	}
	for _, q := range a.quarters {
		if i := int(q.Start.Sub(first) / quarter); q.Start.Compare(first) >= 0 && i < quarters {
			out.Quarters[i].Amounts = q.clone()
		}
	}
	out.Peers, out.Names = out.Peers[:min(len(out.Peers), maxPeers)], out.Names[:min(len(out.Names), maxNames)]
	slices.Reverse(out.Requests)
	for key, p := range a.passing {
		t := Transfer{Incoming: key.incoming, Path: key.path.Base(), Size: p.size, Bytes: min(p.bytes, p.size),
			Seconds: now.Sub(p.began).Seconds(), Peers: []string{key.peer}}
		if key.incoming {
			t.Peers, t.Origin = most(p.peers), store.FromNeighbours
			for o, n := range p.origins {
				if n > p.origins[t.Origin] {
					t.Origin = o
				}
			}
		}
		out.Now = append(out.Now, t)
	}
	slices.SortFunc(out.Now, func(a, b Transfer) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Path, b.Path))
	})
	return out
}
