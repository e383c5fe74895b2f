package upstream

import (
	"sync"
	"time"
)

// A server that does not answer is left alone for brokenMin, twice as long each time that it has not recovered, up to
// brokenMax: so one that is down costs one wait, and one that is back is noticed while the same build still runs.
const brokenMin, brokenMax = 2 * time.Second, 30 * time.Second

// A breaker keeps requests from waiting for a server that is down. The zero value is closed.
type breaker struct {
	mu      sync.Mutex // guards the rest
	open    bool
	probing bool
	until   time.Time // when the next probe may be made
	pause   time.Duration
}

// allows says whether the server may be asked; if not, whether the caller is to probe it beside.
func (b *breaker) allows() (ask, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true, false
	}
	if b.probing || time.Now().Before(b.until) {
		return false, false
	}
	b.probing = true
	return false, true
}

// isOpen says whether the server is taken to be down.
func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// answered records that the server has given an answer, or none.
func (b *breaker) answered(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.open, b.pause = false, 0
		return
	}
	if !b.open { // concurrent requests fail together, and count once
		b.open, b.pause = true, brokenMin
		b.until = time.Now().Add(b.pause)
	}
}

func (b *breaker) probed(ok bool) {
	b.answered(ok)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	if !ok {
		b.pause = min(2*b.pause, brokenMax)
		b.until = time.Now().Add(b.pause)
	}
}
