package peers

import (
	"sync"
	"time"
)

const (
	// InfoTimeout bounds the time that one unresponsive neighbour can add to a question of Nix's about a path.
	// Neighbours share our network: a neighbour that needs longer is worse than the internet. It leaves a part of
	// narserve's 300 ms to the machine's own store. If that store hangs, it is also the time for which each question
	// waits for it, once the budget of longer waits is spent.
	InfoTimeout = 250 * time.Millisecond
	// BusyTimeout is how long a question about a path waits for a neighbour that is alive and busy, and how long a NAR
	// waits for the first neighbour that says it has it: Nix remembers a 404 for an hour, and waits for a NAR for
	// minutes. It also bounds the wait for this machine's own store, after which neighbours are not asked. The patience
	// of a lookup is the sum of BusyTimeout and InfoTimeout.
	BusyTimeout = time.Second
	// MaxBusyWait bounds the time that a build of thousands of paths that no neighbour has loses by waiting for busy
	// ones; what was lost is forgotten at one part in busyWaitRefill.
	MaxBusyWait, busyWaitRefill = 2 * time.Second, 30
)

// A BusyWait bounds the time that questions of Nix's lose by waiting for busy neighbours or for this machine's own
// sources. If one then has the path, only a quarter of the time counts; not nothing, for a neighbour may be slow on
// purpose. Questions that wait at the same time lose it once. Its methods may be called concurrently.
type BusyWait struct {
	mu   sync.Mutex // guards the rest
	lost time.Duration
	at   time.Time // up to when lost time was counted
}

// Allows reports whether one more question may wait for a busy neighbour.
func (b *BusyWait) Allows(now time.Time) bool { return b.Left(now) >= BusyTimeout-InfoTimeout }

// Left returns the time that may still be lost.
func (b *BusyWait) Left(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left(now)
}

// Lose counts the time from a moment until now as lost, unless it has been counted already.
func (b *BusyWait) Lose(from, now time.Time, found bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if from.Before(b.at) {
		from = b.at
	}
	lost := max(0, now.Sub(from))
	if found {
		lost /= 4
	}
	b.lost = MaxBusyWait - b.left(now) + lost
	b.at = now
}

// left is Left; the caller holds mu.
func (b *BusyWait) left(now time.Time) time.Duration {
	return MaxBusyWait - max(0, b.lost-now.Sub(b.at)/busyWaitRefill)
}
