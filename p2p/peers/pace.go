package peers

import (
	"narbor/store"
	"sync"
	"time"
)

// pace estimates how fast blocks come from a neighbour. Its methods may be called concurrently.
type pace struct {
	mu        sync.Mutex    // guards the rest
	blockTime time.Duration // moving average from one block to the next while busy; 0 is unknown
	shown     int64         // the most bytes a second at which blocks have come, on average
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
		size = store.BlockSize / 4 // the round trip dominates: don't blow it up
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

// Window is how many blocks are kept under way with a neighbour: what it delivers in 40 ms, so that the link stays
// busy over a round trip and a slow one is not owed much.
func (p *pace) Window() int {
	const ahead = 40 * time.Millisecond
	d, ok := p.Expect()
	if !ok {
		return 2
	}
	return min(max(int(ahead/d)+1, 2), 16)
}

// LeastPace is the bytes a second below which a neighbour is too slow: a part of the most that it has shown.
func (p *pace) LeastPace() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(max(p.shown/shownPart, LeastPace), mostLeastPace)
}
