package peers

import (
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// A pair is a peer and a NAR that it claims to have.
type pair struct {
	id  peer.ID
	hp  store.HashPart
	nar store.Hash
}

// avoided is which NARs are not taken from which peers, and why.
type avoided struct {
	pairs *lru.Cache[pair, avoidance]
}

func pairOf(t *Tally, m trust.Mapping) pair {
	return pair{t.ID, m.Path().HashPart(), m.NarHash()}
}

type avoidance struct {
	until  time.Time
	reason string
}

func newAvoided() avoided {
	pairs := lru.New[pair, avoidance](maxAvoided)
	return avoided{pairs}
}

// add avoids a pair, and says whether it was not avoided before.
func (a avoided) add(p pair, d time.Duration, reason string) (first bool) {
	now := time.Now()
	old, known := a.pairs.Peek(p)
	if until := now.Add(d); !known || until.After(old.until) {
		a.pairs.Add(p, avoidance{until, reason})
	}
	return !known || now.After(old.until)
}

// why returns why a pair is avoided; "" if it is not.
func (a avoided) why(p pair) string {
	if v, ok := a.pairs.Peek(p); ok && time.Now().Before(v.until) {
		return v.reason
	}
	return ""
}

// SentWrong records that a peer has sent a wrong NAR, and reports whether that is news: it is once for each path in
// [wrongFor].
func (l *Ledger) SentWrong(id peer.ID, m trust.Mapping, cause error) (news bool) {
	now, reason := time.Now(), Bounded(cause.Error())
	l.mu.Lock()
	l.counts.refused[refusedHash]++
	news = l.avoided.add(pair{id, m.Path().HashPart(), m.NarHash()}, wrongFor, "it has sent a wrong NAR of it")
	t := l.tally(id)
	l.mu.Unlock()
	if !news {
		return false
	}
	l.Log.Warn("neighbour sent a wrong NAR", zap.Stringer("peer", id), zap.Stringer("path", m.Path()), zap.String("reason", reason))
	if until := t.sentWrong(now); !until.IsZero() {
		l.Log.Warn("neighbour is set aside", zap.Stringer("peer", id), zap.Time("until", until), zap.String("reason", asideWrong))
	}
	return true
}

// Avoid has a NAR not taken from a peer for a while.
func (l *Ledger) Avoid(t *Tally, m trust.Mapping, d time.Duration, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.avoided.add(pairOf(t, m), d, reason)
}

// avoids returns why a NAR is not taken from a peer; "" if it is.
func (l *Ledger) avoids(p pair) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.avoided.why(p)
}

// TakesFrom reports whether blocks of a NAR are taken from a peer. They are not if the peer is avoided for it, or
// is set aside for wrong NARs; from one that was too slow they are.
func (l *Ledger) TakesFrom(t *Tally, m trust.Mapping) bool {
	_, why := t.Aside(time.Now())
	return why != asideWrong && l.avoids(pairOf(t, m)) == ""
}

// Unreliable returns why a peer's claim of a NAR is not enough to tell Nix that it can be had; "" if it is.
func (l *Ledger) Unreliable(t *Tally, hp store.HashPart, nar store.Hash) string {
	if why := l.avoids(pair{t.ID, hp, nar}); why != "" {
		return why
	}
	if until, why := t.Aside(time.Now()); why != "" {
		return fmt.Sprintf("alone it is not relied on until %s: it %s", until.Local().Format("15:04"), why)
	}
	return ""
}
