package stats

import (
	"cmp"
	"slices"
	"time"

	"narbor/store"
	"narbor/store/lru"
)

const (
	// maxPassing bounds the transfers that are known to be under way.
	maxPassing = 256
	// passingIdle is after how long without a block a transfer to a neighbour counts as over: no message ends it.
	passingIdle = 3 * time.Second
	// incomingIdle is the time without a block after which an incoming transfer is dropped if its end was not recorded.
	// It is longer than the time after which a fetch without progress fails.
	incomingIdle = 240 * time.Second
	// maxOrigins bounds the NARs with a known origin. Nix fetches those of a whole closure, which are some 3,000 for a
	// desktop system, soon after they came.
	maxOrigins = 4096
)

// A Provenance is where a NAR came from, and from which peers.
type Provenance struct {
	Origin store.Origin
	From   []string
}

// transfers are the NARs under way, and the origins of those that have arrived. The caller of the methods holds the
// lock of the accounts.
type transfers struct {
	passing map[passKey]*passing
	origins *lru.Cache[store.Hash, Provenance] // of NARs in the spool
	meter   *meter
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

func newTransfers() transfers {
	return transfers{map[passKey]*passing{}, lru.New[store.Hash, Provenance](maxOrigins), &meter{}}
}

// pass returns a transfer under way, which may begin now; nil if there are too many.
func (t transfers) pass(key passKey, size int64, now time.Time) *passing {
	p := t.passing[key]
	if p == nil {
		if len(t.passing) >= maxPassing {
			t.sweep(now)
		}
		if len(t.passing) >= maxPassing {
			return nil
		}
		p = &passing{size: size, began: now}
		t.passing[key] = p
	}
	p.last = now
	return p
}

// sweep forgets transfers to neighbours that are over, and the remains of others.
func (t transfers) sweep(now time.Time) {
	for key, p := range t.passing {
		if idle := now.Sub(p.last); idle > incomingIdle || !key.incoming && idle > passingIdle {
			delete(t.passing, key)
		}
	}
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

// list returns the transfers under way, the longest first.
func (t transfers) list(now time.Time) []Transfer {
	t.sweep(now)
	list := []Transfer{}
	for key, p := range t.passing {
		one := Transfer{Incoming: key.incoming, Path: key.path.Base(), Size: p.size, Bytes: min(p.bytes, p.size),
			Seconds: now.Sub(p.began).Seconds(), Peers: []string{key.peer}}
		if key.incoming {
			one.Peers, one.Origin = most(p.peers), store.FromNeighbours
			for o, n := range p.origins {
				if n > p.origins[one.Origin] {
					one.Origin = o
				}
			}
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b Transfer) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Path, b.Path))
	})
	return list
}
