package stats

import (
	"slices"
	"time"
)

const (
	// alikeFor is for how long requests that are alike are one entry among the latest, and alikeAmong of how many of
	// the latest: Nix asks for thousands of paths in a row, and what it got would be lost among them.
	alikeFor, alikeAmong = time.Minute, 4
)

// requests are Nix's latest requests. The caller of its methods holds the lock of the accounts.
type requests struct {
	latest  []Request        // the latest last
	answers map[string]int64 // to questions for a path since the start, by the result, or "timeout"
}

func (q *requests) add(now time.Time, r Request) {
	r.Time = now
	for i := len(q.latest) - 1; r.Result != ResultHit && i >= max(0, len(q.latest)-alikeAmong); i-- {
		old := &q.latest[i]
		if old.Result == r.Result && old.Reason == r.Reason && now.Sub(old.Time) < alikeFor {
			old.Time, old.Path, old.Count, old.Seconds = now, r.Path, old.Count+1, old.Seconds+r.Seconds
			return
		}
	}
	if len(q.latest) >= maxRequests {
		q.latest = slices.Delete(q.latest, 0, len(q.latest)-maxRequests+1)
	}
	q.latest = append(q.latest, r)
}
