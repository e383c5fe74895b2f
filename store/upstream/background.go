package upstream

import (
	"context"
	"sync"
	"time"
)

// infoTimeout bounds a question about a path, connecting included: three round trips over the slowest
// satellite, and more than a line needs with queues that downloads have filled. Without narbor Nix would wait for 300
// s.
const infoTimeout = 5 * time.Second

// A background is the work that goes on after the call that began it, until the cache is closed. The zero value is
// ready.
type background struct {
	mu     sync.Mutex // guards closed and ends, and that work grows no more once closed is set
	closed bool
	ends   map[*context.CancelFunc]bool // of the work under way

	work sync.WaitGroup
}

// do runs f with the context of [background.begin].
func (b *background) do(f func(ctx context.Context)) {
	ctx, end := b.begin()
	defer end()
	f(ctx)
}

// begin returns a context that ends after [infoTimeout], or when the cache is closed, and a function for the end of the
// work: close waits for it.
func (b *background) begin() (ctx context.Context, end func()) {
	ctx, cancel := context.WithTimeout(context.Background(), infoTimeout)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cancel()
		return ctx, cancel
	}
	if b.ends == nil {
		b.ends = map[*context.CancelFunc]bool{}
	}
	b.ends[&cancel] = true
	b.work.Add(1)
	return ctx, func() {
		cancel()
		b.mu.Lock()
		delete(b.ends, &cancel)
		b.mu.Unlock()
		b.work.Done()
	}
}

// close ends the work, and waits for it.
func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	for end := range b.ends {
		(*end)()
	}
	b.mu.Unlock()
	b.work.Wait()
}
