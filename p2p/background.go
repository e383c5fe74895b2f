package p2p

import (
	"context"
	"sync"
)

// A background has the goroutines that outlast the calls that start them, until its end.
type background struct {
	ctx     context.Context // of work for neighbours after they have been answered; ended by end
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex // guards ended
	ended bool
}

func newBackground() *background {
	ctx, cancel := context.WithCancel(context.Background())
	return &background{ctx: ctx, cancel: cancel}
}

// begin reports whether a goroutine that end waits for may still start; the caller calls running.Done at its end.
func (b *background) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	b.running.Add(1)
	return true
}

// start calls f in a goroutine that end waits for, and returns true, or returns false after the end.
func (b *background) start(f func()) bool {
	if !b.begin() {
		return false
	}
	go func() {
		defer b.running.Done()
		f()
	}()
	return true
}

// end ends the context, and returns once all goroutines have ended.
func (b *background) end() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.cancel()
	b.running.Wait()
}
