package peers

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// A Tally counts the messages and blocks of a peer, and is kept when the peer disconnects.
type Tally struct {
	ID peer.ID
	// Tellings bounds how often the peer gets a list of our neighbours.
	Tellings *rate.Limiter

	transfers
	Strikes        atomic.Int64
	distrust       distrust
	Outsider, Told atomic.Bool // it is of another group; that was logged
	name           atomic.Pointer[string]

	mu sync.Mutex // guards the rest
	setback
	backoff  time.Time // until when it is not asked to ask its upstreams
	backoffs uint      // how often that was so of late
}

// transfers counts the claims and blocks that a peer has sent and was sent.
type transfers struct {
	Claims, BlocksReceived, BytesReceived atomic.Int64
	ClaimsSent, BlocksSent, BytesSent     atomic.Int64
	WireReceived, WireSent                atomic.Int64 // bytes of blocks on the wire, packed as they were
	BlocksRelayed                         atomic.Int64 // blocks sent while their NAR was still being received here
	Wasted                                atomic.Int64 // bytes received that another peer had delivered first
}

// distrust bounds the use of a peer that has passed on wrong blocks.
type distrust struct {
	rumours atomic.Int64 // NARs with wrong unverified blocks from it
	until   atomic.Int64 // Unix ns
}

// Distrust records that the peer has passed on wrong blocks that it had not verified.
func (t *Tally) Distrust(now time.Time) {
	if t.distrust.rumours.Add(1)%maxStrikes == 0 {
		t.distrust.until.Store(now.Add(banTime).UnixNano())
	}
}

// IsDistrusted reports whether only verified blocks are taken from the peer.
func (t *Tally) IsDistrusted(now time.Time) bool { return now.UnixNano() < t.distrust.until.Load() }

func (t *Tally) sentWrong(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.setback.sentWrong(now)
}

// WasSlow sets the peer aside for [BackoffTime], and each further time in a row for four times as long, up to maxAside.
// Fetches that fail together count once. It returns until when, or zero.
func (t *Tally) WasSlow(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wasSlow(now)
}

// WasTardy records a NAR that came in the end, and far too slowly. A disk may have had to start, so it takes a second
// one, begun after the first had come, to set the peer aside. It returns until when, or zero.
func (t *Tally) WasTardy(began, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wasTardy(began, now)
}

// Kept records that the peer has delivered as it should.
func (t *Tally) Kept() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept()
}

// Aside returns until when the peer is set aside, and why; or zero.
func (t *Tally) Aside(now time.Time) (until time.Time, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.aside(now)
}

// CountWrong returns how many wrong NARs came from the peer in the last hour.
func (t *Tally) CountWrong(now time.Time) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.recent(now)))
}

// BackOff leaves a peer out of assignments for a while, and for longer the more often that happens.
func (t *Tally) BackOff(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch since := now.Sub(t.backoff); {
	case since < 0: // for what began before
		return
	case since > maxBackoff:
		t.backoffs = 0
	}
	t.backoff = now.Add(min(BackoffTime<<(2*t.backoffs), maxBackoff))
	t.backoffs = min(t.backoffs+1, 8)
}

// BackOffOnce leaves a peer out of assignments for a minute: an upstream may be slow to answer one question.
func (t *Tally) BackOffOnce(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until := now.Add(BackoffTime); until.After(t.backoff) {
		t.backoff = until
	}
}

func (t *Tally) inBackoff(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.Before(t.backoff)
}
