package p2p

import (
	"sync"
	"time"
)

// busyWait bounds the time that questions of Nix's lose by waiting for busy neighbours. If one then has the path, a quarter of
// the time counts, for a neighbour may be slow on purpose. Questions that wait at the same time lose it once. Its methods may
// be called concurrently.
type busyWait struct {
	mu   sync.Mutex // guards the rest
	lost time.Duration
	at   time.Time // up to when lost time was counted
}

// allows reports whether one more question may wait for a busy neighbour.
func (b *busyWait) allows(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left(now) >= busyTimeout-infoTimeout
}

// lose counts the time from a moment until now as lost, unless it has been counted already.
func (b *busyWait) lose(from, now time.Time, found bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if from.Before(b.at) {
		from = b.at
	}
	lost := max(0, now.Sub(from))
	if found {
		lost /= 4
	}
	b.lost = maxBusyWait - b.left(now) + lost
	b.at = now
}

// left returns what may still be lost. The caller holds mu.
func (b *busyWait) left(now time.Time) time.Duration {
	return maxBusyWait - max(0, b.lost-now.Sub(b.at)/busyWaitRefill)
}
