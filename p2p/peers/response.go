package peers

import (
	"sync"
	"time"
)

// responseTime estimates how long answers take, as TCP estimates round trips (RFC 6298). Its methods may be called
// concurrently.
type responseTime struct {
	mu        sync.Mutex // guards the rest
	mean      time.Duration
	deviation time.Duration // of the mean, on average
	at        time.Time     // of the last answer
}

// add takes in that an answer has come at that time, and how long it took.
func (r *responseTime) add(took time.Duration, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() {
		r.mean, r.deviation = took, took/2
	} else {
		r.deviation += ((took - r.mean).Abs() - r.deviation) / 4
		r.mean += (took - r.mean) / 8
	}
	r.at = at
}

// Answered records that the neighbour has answered now, so long after it was asked.
func (n *Neighbour) Answered(took time.Duration) { n.response.add(took, time.Now()) }

// IsBusy reports whether the neighbour, which has left a question unanswered for that long, may be alive and busy: an
// answer or a block has come from it since, its answers of late let one expect that it takes so long, or it has answered
// none before.
func (n *Neighbour) IsBusy(waited time.Duration) bool {
	asked := time.Now().Add(-waited)
	if time.Unix(0, n.Brought.Load()).After(asked) {
		return true
	}
	r := &n.response
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at.IsZero() || r.at.After(asked) || r.mean+4*r.deviation > waited
}
