package peers

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// asideWrong and asideSlow are the reasons for which a peer is set aside.
const (
	asideWrong = "sent wrong NARs of several paths: its store is damaged, or it lies"
	asideSlow  = "did not deliver what it claims to have, or far too slowly"
)

// A setback is until when a peer is set aside, and why. It is a neighbour all the same: it is answered, and what it
// claims counts beside what others do. Alone it is no reason to tell Nix that a path can be had.
type setback struct {
	wrongs []time.Time // when wrong NARs came, of the last hour
	slow   uint        // how often it was too slow, less one for each NAR that came as it should
	tardy  time.Time   // when a NAR came that took far too long
	until  time.Time
	reason string
}

// sentWrong counts a wrong NAR of a path. Of the last hour, maxWrong set the peer aside for asideTime, and each further
// one for four times as long, up to maxAside. It returns until when, or zero.
func (t *Tally) sentWrong(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	recent := t.wrongs[:0]
	for _, at := range t.wrongs {
		if now.Sub(at) < wrongFor {
			recent = append(recent, at)
		}
	}
	t.wrongs = append(recent, now)
	if len(t.wrongs) > 2*maxWrong {
		t.wrongs = t.wrongs[1:]
	}
	if len(t.wrongs) < maxWrong {
		return time.Time{}
	}
	return t.putAside(now, asideTime<<(2*uint(len(t.wrongs)-maxWrong)), asideWrong)
}

// WasSlow sets the peer aside for [BackoffTime], and each further time in a row for four times as long, up to maxAside.
// Fetches that fail together count once. It returns until when, or zero.
func (t *Tally) WasSlow(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.until) {
		return time.Time{}
	}
	t.slow = min(t.slow+1, 8)
	return t.putAside(now, BackoffTime<<(2*(t.slow-1)), asideSlow)
}

// putAside sets the peer aside. The caller holds mu.
func (t *Tally) putAside(now time.Time, d time.Duration, reason string) time.Time {
	if until := now.Add(min(d, maxAside)); until.After(t.until) {
		t.until, t.reason = until, reason
	} else if reason == asideWrong {
		t.reason = reason // the stricter one
	}
	return t.until
}

// Kept records that the peer has delivered as it should.
func (t *Tally) Kept() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slow = max(t.slow, 1) - 1
}

// Aside returns until when the peer is set aside, and why; or zero.
func (t *Tally) Aside(now time.Time) (until time.Time, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !now.Before(t.until) {
		return time.Time{}, ""
	}
	return t.until, t.reason
}

// CountWrong returns how many wrong NARs came from the peer in the last hour.
func (t *Tally) CountWrong(now time.Time) (count int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range t.wrongs {
		if now.Sub(at) < wrongFor {
			count++
		}
	}
	return count
}

// WasTardy records a NAR that came in the end, and far too slowly. A disk may have had to start, so it takes a second
// one, begun after the first had come, to set the peer aside. It returns until when, or zero.
func (t *Tally) WasTardy(began, now time.Time) time.Time {
	t.mu.Lock()
	first := t.tardy
	again := !first.IsZero() && began.After(first) && now.Sub(first) < SlowFor
	if again {
		t.tardy = time.Time{}
	} else if first.IsZero() || now.Sub(first) >= SlowFor {
		t.tardy = now
	}
	t.mu.Unlock()
	if !again {
		return time.Time{}
	}
	return t.WasSlow(now)
}

// BackOff leaves a peer out of elections for a while, and for longer the more often that happens.
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

// BackOffOnce leaves a peer out of elections for a minute: an upstream may be slow to answer one question.
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
