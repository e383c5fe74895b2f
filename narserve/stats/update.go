package stats

import (
	"slices"
	"time"

	"narbor/store"
)

// updatePause is the time without a request of Nix that ends an update. Nix unpacks and builds between its requests.
const updatePause = 2 * time.Minute

// updates has the last update, in which Nix got at least one path. The caller of its methods holds the lock of the
// accounts.
type updates struct {
	last   Update
	givers map[string]int64 // bytes by the neighbour that gave most of a NAR; last.From has those from before a restart
	began  time.Time        // the first request since the last pause
	seen   time.Time        // the last one
}

// asked records a request. It begins an update if a pause was before it.
func (u *updates) asked(now time.Time) {
	if now.Sub(u.seen) > updatePause || now.Before(u.seen) {
		u.began = now
	}
	u.seen = now
}

// add adds what Nix got after a request at some time, unless that was before the last update.
func (u *updates) add(at time.Time, amounts Amounts) {
	if u.last.Start.Before(u.began) && !at.Before(u.began) {
		u.last, u.givers = Update{Start: u.began}, map[string]int64{}
	}
	if at.Before(u.last.Start) || u.last.Start.IsZero() || at.Before(u.began) && at.Sub(u.last.End) > updatePause {
		return
	}
	u.last.Add(amounts)
	if at.After(u.last.End) {
		u.last.End = at
	}
}

// gave records the neighbour that most of a NAR of the last update came from.
func (u *updates) gave(from Provenance, n int64) {
	i := slices.IndexFunc(from.From, isPeer)
	if i < 0 || from.Origin != store.FromNeighbours {
		return
	}
	if u.givers == nil {
		u.givers = map[string]int64{}
	}
	if id := from.From[i]; u.givers[id] > 0 || len(u.givers) < maxPeers {
		u.givers[id] += n
	}
}

// copy returns the last update; nil if there is none.
func (u *updates) copy() *Update {
	if u.last.Start.IsZero() {
		return nil
	}
	last := u.last
	last.Amounts = last.clone()
	last.From = slices.Clone(last.From)
	for _, id := range most(u.givers) {
		if len(last.From) < maxFrom && !slices.Contains(last.From, id) {
			last.From = append(last.From, id)
		}
	}
	return &last
}
