package peers

import (
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// A record is what peers have done. It decides which are refused and which are not relied on. It has no lock, no clock
// and no file: the [Ledger] has all three. A [Tally] is used outside of it as well, and has a lock of its own.
type record struct {
	tallies    *lru.Cache[peer.ID, *Tally]
	denied     denyList
	avoided    avoided
	mismatches mismatches
	counts     counts
}

func newRecord() record {
	return record{tallies: lru.New[peer.ID, *Tally](MaxTallies), denied: denyList{}, avoided: newAvoided(),
		mismatches: mismatches{}, counts: newCounts()}
}

func (r *record) tally(id peer.ID) *Tally {
	t, ok := r.tallies.Get(id)
	if !ok {
		t = &Tally{ID: id, Tellings: rate.NewLimiter(tellRate, tellBurst)}
		r.tallies.Add(id, t)
	}
	return t
}

// strike counts a message that no honest peer sends, and bans the peer for [banTime] after the third. It returns the
// number of strikes, 0 if the peer is banned already, and until when a new ban lasts, or zero.
func (r *record) strike(id peer.ID, lie error, now time.Time) (strikes int64, until time.Time) {
	if e, ok := r.denied[id]; ok && !e.Until.IsZero() && !e.ended(now) {
		return 0, time.Time{}
	}
	t := r.tally(id)
	if strikes = t.Strikes.Add(1); strikes < maxStrikes {
		return strikes, time.Time{}
	}
	t.Strikes.Store(0) // it starts anew after the ban
	until = now.Add(banTime)
	r.denied.ban(id, Bounded(lie.Error()), until)
	r.counts.bans[refusal(lie)]++
	return strikes, until
}

// sentWrong records a wrong NAR. It reports whether that is news, and until when the peer is set aside for it, or zero.
func (r *record) sentWrong(id peer.ID, m trust.Mapping, now time.Time) (news bool, until time.Time) {
	r.counts.refused[refusedHash]++
	t := r.tally(id)
	if !r.avoided.add(pairOf(t, m), "it has sent a wrong NAR of it", now, wrongFor) {
		return false, time.Time{}
	}
	return true, t.sentWrong(now)
}

func (r *record) takesFrom(t *Tally, m trust.Mapping, now time.Time) bool {
	_, why := t.Aside(now)
	return why != asideWrong && r.avoided.why(pairOf(t, m), now) == ""
}

func (r *record) unreliable(p pair, t *Tally, now time.Time) string {
	if why := r.avoided.why(p, now); why != "" {
		return why
	}
	if until, why := t.Aside(now); why != "" {
		return fmt.Sprintf("alone it is not relied on until %s: it %s", until.Local().Format("15:04"), why)
	}
	return ""
}

// A pair is a peer and a NAR that it claims to have.
type pair struct {
	id  peer.ID
	hp  store.HashPart
	nar store.Hash
}

func pairOf(t *Tally, m trust.Mapping) pair { return pair{t.ID, m.Path().HashPart(), m.NarHash()} }

// avoided is which NARs are not taken from which peers, and why.
type avoided struct{ pairs *lru.Cache[pair, avoidance] }

type avoidance struct {
	until  time.Time
	reason string
}

func newAvoided() avoided { return avoided{lru.New[pair, avoidance](maxAvoided)} }

// add avoids a pair for a while, and says whether it was not avoided before.
func (a avoided) add(p pair, reason string, now time.Time, d time.Duration) (first bool) {
	old, known := a.pairs.Peek(p)
	if until := now.Add(d); !known || until.After(old.until) {
		a.pairs.Add(p, avoidance{until, reason})
	}
	return !known || now.After(old.until)
}

// why returns why a pair is avoided; "" if it is not.
func (a avoided) why(p pair, now time.Time) string {
	if v, ok := a.pairs.Peek(p); ok && now.Before(v.until) {
		return v.reason
	}
	return ""
}
