package peers

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

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
