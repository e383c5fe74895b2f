package peers

import (
	"sync"
	"sync/atomic"
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

// liveness is what a neighbour's answers and blocks say of whether it is alive. Its methods may be called concurrently.
type liveness struct {
	Brought  atomic.Int64 // when (Unix ns) a block came from it last
	Late     atomic.Int64 // since when (Unix ns) it has not answered in time, nor anything on that stream; 0 if it has
	response responseTime // to questions about claims
}

// Answered records that the neighbour has answered now, so long after it was asked.
func (l *liveness) Answered(took time.Duration) { l.response.add(took, time.Now()) }

// IsBusy reports whether the neighbour may be alive and busy when it has left a question unanswered for that long: an
// answer or a block has come from it since, or at most lately before, its last answers took about as long, or it has
// answered none before.
func (l *liveness) IsBusy(waited, lately time.Duration) bool {
	heard := time.Now().Add(-waited - lately)
	if time.Unix(0, l.Brought.Load()).After(heard) {
		return true
	}
	r := &l.response
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at.IsZero() || r.at.After(heard) || r.mean+4*r.deviation > waited
}
