package stats

import "time"

// updatePause is the time without a request of Nix that ends an update. Nix unpacks and builds between its requests.
const updatePause = 2 * time.Minute

// An Update has the amounts that Nix got without a pause of two minutes. Seconds are those in which it waited for NARs or received them.
type Update struct {
	Start time.Time `json:"start"` // the first question for a path
	End   time.Time `json:"end"`   // the last request for which there was something
	Amounts
}

// updates has the last update, in which Nix got at least one path. The caller of its methods holds the lock of the accounts.
type updates struct {
	last  Update
	began time.Time // the first request since the last pause
	seen  time.Time // the last one
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
		u.last = Update{Start: u.began}
	}
	if at.Before(u.last.Start) || u.last.Start.IsZero() || at.Before(u.began) && at.Sub(u.last.End) > updatePause {
		return
	}
	u.last.Add(amounts)
	if at.After(u.last.End) {
		u.last.End = at
	}
}

// copy returns the last update; nil if there is none.
func (u *updates) copy() *Update {
	if u.last.Start.IsZero() {
		return nil
	}
	return &Update{u.last.Start, u.last.End, u.last.clone()}
}
