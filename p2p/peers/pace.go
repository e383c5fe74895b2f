package peers

import (
	"sync"
	"time"

	"narbor/store"
)

// pace estimates how fast blocks come from a neighbour. Its methods may be called concurrently.
type pace struct {
	mu        sync.Mutex    // guards the rest
	blockTime time.Duration // moving average from one block to the next while busy; 0 is unknown
	shown     int64         // the most bytes a second at which blocks have come, on average
	rate      int64         // bytes a second that came of late, of all NARs, while a large one was fetched; 0 is unknown
	rated     time.Time     // when that was measured
}

// Rated records the rate, in bytes per second, at which the neighbour has sent in the last seconds, over all NARs,
// while more blocks were requested.
func (p *pace) Rated(rate int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.rated = rate, now
}

// Rate returns the bytes a second that come from the neighbour, of all NARs together; 0 if that has not been measured
// in the last minute.
func (p *pace) Rate(now time.Time) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.rated) > rateFresh {
		return 0
	}
	return p.rate
}

// Expect returns the estimate for one more block, and ok false if nothing has been measured yet.
func (p *pace) Expect() (d time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blockTime, p.blockTime > 0
}

// Measured records the time that a block of size bytes took, scaled to a full one.
func (p *pace) Measured(d time.Duration, size int) {
	d = max(d, 50*time.Microsecond)
	if size < store.BlockSize/4 {
		size = store.BlockSize / 4 // the round trip dominates
	}
	d = time.Duration(float64(d) * store.BlockSize / float64(size))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blockTime == 0 {
		p.blockTime = d
	} else {
		p.blockTime += (d - p.blockTime) / 4
	}
	p.shown = max(p.shown, int64(store.BlockSize/p.blockTime.Seconds()))
}

// Window is the number of blocks to keep under way with a neighbour: as many as it delivers in 40 ms. That keeps the
// link busy over a round trip, and few blocks wait for a slow neighbour.
func (p *pace) Window() int {
	const ahead = 40 * time.Millisecond
	d, ok := p.Expect()
	if !ok {
		return 2
	}
	return min(max(int(ahead/d)+1, 2), 16)
}

// LeastPace is the rate, in bytes per second, below which a neighbour is too slow: a fraction of its highest rate.
func (p *pace) LeastPace() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(max(p.shown/shownPart, LeastPace), mostLeastPace)
}
