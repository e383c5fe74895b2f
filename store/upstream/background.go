package upstream

import (
	"context"
	"sync"
)

// A background is the work that goes on after the call that began it: it ends when the cache is closed.
type background struct {
	life context.Context
	end  context.CancelFunc

	mu     sync.Mutex // guards closed, and that work grows no more once it is set
	closed bool
	work   sync.WaitGroup
}

// start runs f in a goroutine, but not after close.
func (b *background) start(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.work.Go(f)
	}
}

// close ends life, and waits for the work.
func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.end()
	b.work.Wait()
}
