package stats

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"narbor/store"
	"narbor/trust"
)

// Accounts keep what passed between Nix, this machine and others: for a year by day, for a day by quarter of an hour,
// and the latest requests and the current transfers one by one. It is never larger than its constants allow. Its
// methods may be called concurrently; none but Save and Run does any I/O.
type Accounts struct {
	file   string // "" is none
	missed misses

	mu        sync.Mutex // guards the rest
	note      string     // the error of the file
	changed   bool       // since the file was written
	history   history
	updates   updates
	shares    parties
	requests  requests
	transfers transfers
	busy      busy
	lack      lack
}

// busy is the time in which Nix waits for or receives NARs.
type busy struct {
	serving int       // requests for NARs that are being answered
	since   time.Time // when the first of these began
	saved   int64     // bytes that neighbours have saved since
}

// Totals are the amounts since the start of the program.
type Totals struct {
	Amounts
	Answers map[string]int64 // to questions of Nix for a path, by the result, or "timeout"
}

// New returns accounts that are kept in memory alone.
func New() *Accounts {
	return &Accounts{missed: newMisses(), history: history{since: time.Now()}, shares: parties{shares{}, shares{}},
		transfers: newTransfers(),
		requests:  requests{answers: map[string]int64{ResultHit: 0, ResultMiss: 0, ResultRejected: 0, resultTimeout: 0}}}
}

// Received records n bytes of a NAR that came here from a peer, or from an upstream of that name, before the NAR
// is verified.
func (a *Accounts) Received(o store.Origin, m trust.Mapping, from string, n int) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch o {
	case store.FromInternet:
		a.transfers.meter.move(now, Rates{Internet: int64(n)})
	case store.FromNeighbours, store.FromOthers:
		a.transfers.meter.move(now, Rates{Network: int64(n)})
	}
	p := a.transfers.pass(passKey{incoming: true, path: m.Path()}, m.NarSize(), now)
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
	a.transfers.meter.move(now, Rates{Sent: int64(n)})
	a.shares.peers.of(to, maxPeers, now).Sent += int64(n)
	a.shares.names.of(packageName(path), maxNames, now).Sent += int64(n)
	if p := a.transfers.pass(passKey{path: path, peer: to}, size, now); p != nil {
		p.bytes += int64(n)
	}
}

// Landed records that a NAR is in the spool that was fetched for neighbours, and not for Nix, or that it is not.
func (a *Accounts) Landed(m trust.Mapping, err error) { a.Fetched(m, store.FromInternet, err) }

// Fetched records that a NAR is in the spool, or will not come. If no sender is recorded, its origin is otherwise.
func (a *Accounts) Fetched(m trust.Mapping, otherwise store.Origin, err error) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	key := passKey{incoming: true, path: m.Path()}
	p := a.transfers.passing[key]
	delete(a.transfers.passing, key)
	if err != nil {
		return
	}
	if p == nil {
		if !a.transfers.origins.Contains(m.NarHash()) {
			a.transfers.origins.Add(m.NarHash(), Provenance{Origin: otherwise})
		}
		return
	}
	for id, n := range p.peers {
		a.shares.peers.of(id, maxPeers, now).Received += n
	}
	origin := otherwise
	for o, n := range p.origins {
		if n > p.origins[origin] {
			origin = o
		}
	}
	a.changed = true
	a.transfers.origins.Add(m.NarHash(), Provenance{origin, most(p.peers)})
}

// Served records that Nix got n bytes of a NAR, and whether it was to its last. It returns where they came from.
func (a *Accounts) Served(m trust.Mapping, n int64, took time.Duration, whole bool) Provenance {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	from, ok := a.transfers.origins.Get(m.NarHash())
	if !ok {
		from.Origin = store.FromStore
	}
	amounts := Amounts{Received: map[store.Origin]int64{from.Origin: n}}
	r := Request{Path: m.Path().Base(), Result: ResultHit, Count: 1, Bytes: n, Seconds: took.Seconds(), Origin: from.Origin,
		From: from.From}
	if whole {
		amounts.NARs = 1
	} else {
		r.Reason = "broke off"
	}
	a.book(now, amounts)
	a.updates.add(now, amounts)
	a.updates.gave(from, n)
	if saved := amounts.Saved(); saved > 0 {
		a.shares.names.of(packageName(m.Path()), maxNames, now).Received += saved
		a.busy.saved += saved
	}
	a.requests.add(now, r)
	return from
}

// Found records that Nix was told that it can have a path.
func (a *Accounts) Found(path store.Path) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteRequest(now)
	a.book(now, Amounts{Found: 1})
	a.requests.answers[ResultHit]++
	a.requests.add(now, Request{Path: path.Base(), Result: ResultFound, Count: 1})
}

// NotFound records that Nix was told that there is no such path, and why.
func (a *Accounts) NotFound(hp store.HashPart, err error) {
	now := time.Now()
	a.missed.add(hp, missCheck{at: now})
	result, reason := why(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lack.note(now, err)
	a.noteRequest(now)
	a.book(now, Amounts{Missed: 1})
	if errors.Is(err, ErrNoAnswer) {
		a.requests.answers[resultTimeout]++
	} else {
		a.requests.answers[result]++
	}
	a.requests.add(now, Request{Path: string(hp), Result: result, Reason: reason, Count: 1})
}

// NotServed records that there is no NAR after all.
func (a *Accounts) NotServed(m trust.Mapping, took time.Duration, err error) {
	now := time.Now()
	a.missed.add(m.Path().HashPart(), missCheck{at: now})
	result, reason := why(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lack.note(now, err)
	a.requests.add(now, Request{Path: m.Path().Base(), Result: result, Reason: reason, Count: 1, Seconds: took.Seconds()})
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
	case errors.Is(err, store.ErrSlow):
		return ResultMiss, "neighbours have it, and send it too slowly"
	case errors.Is(err, ErrNoAnswer):
		return ResultMiss, "no answer in time"
	case errors.Is(err, ErrStopping):
		return ResultMiss, "narbor was stopping"
	}
	return ResultMiss, "no neighbour has it"
}

// SinceStart returns the amounts since the start of the program.
func (a *Accounts) SinceStart() Totals {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Totals{a.history.total.clone(), maps.Clone(a.requests.answers)}
}

// Account returns all that is known at this moment.
func (a *Accounts) Account() Account {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.booked(now)
	out.Note, out.Now, out.Rates = a.note, a.transfers.list(now), a.transfers.meter.rates(now)
	if u := out.LastUpdate; u != nil && a.busy.serving > 0 && a.servedSince() {
		u.Seconds += now.Sub(a.busy.since).Seconds() // End adds them to the account
	}
	return out
}

// booked returns what outlasts the program. The caller holds mu.
func (a *Accounts) booked(now time.Time) Account {
	out := Account{Schema: accountSchema, Since: a.history.since, Days: a.history.listDays(), Quarters: a.history.listQuarters(now),
		Peers: a.shares.peers.list(), Names: a.shares.names.list(), Requests: slices.Clone(a.requests.latest),
		LastUpdate: a.updates.copy()}
	out.Peers, out.Names = out.Peers[:min(len(out.Peers), maxPeers)], out.Names[:min(len(out.Names), maxNames)]
	slices.Reverse(out.Requests)
	return out
}

// servedSince reports whether Nix got something since it waits. The caller holds mu.
func (a *Accounts) servedSince() bool { return !a.updates.last.End.Before(a.busy.since) }

// book adds amounts to today and to this quarter of an hour. The caller holds mu.
func (a *Accounts) book(now time.Time, amounts Amounts) {
	a.changed = true
	a.history.book(now, amounts)
}

// Begin records the start of an answer to a request for a NAR. The caller calls End when it is through.
func (a *Accounts) Begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.noteRequest(now)
	if a.busy.serving++; a.busy.serving == 1 {
		a.busy.since, a.busy.saved = now, 0
	}
}

// noteRequest records the time of a request of Nix. No update ends while a NAR is served. The caller holds mu.
func (a *Accounts) noteRequest(now time.Time) {
	if a.busy.serving > 0 {
		a.updates.seen = now
		return
	}
	a.updates.asked(now)
}

// End records the end of an answer to a request for a NAR.
func (a *Accounts) End() {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy.serving--; a.busy.serving > 0 {
		return
	}
	a.updates.seen = now
	took := now.Sub(a.busy.since).Seconds()
	amounts := Amounts{Seconds: took, SavedSeconds: max(0, float64(a.busy.saved)/internetRate-took)}
	a.book(now, amounts)
	if a.servedSince() {
		a.updates.add(now, amounts)
	}
}

// TooLarge reports whether Nix was denied a NAR that is larger than the spool, at most so long ago.
func (a *Accounts) TooLarge(ago time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.lack.tooLarge.IsZero() && time.Since(a.lack.tooLarge) <= ago
}

// OutOfRoom reports whether Nix was denied a NAR for want of room in the spool, at most so long ago.
func (a *Accounts) OutOfRoom(ago time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.lack.room.IsZero() && time.Since(a.lack.room) <= ago
}

// Asked says whether there is a request of Nix's among the latest ones, which outlast a restart.
func (a *Accounts) Asked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests.latest) > 0
}
