package flight

import (
	"context"
	"sync"
)

// A Life is for work that outlasts the calls that begin it. Its end ends the work. Its methods may be called concurrently.
type Life struct {
	ctx     context.Context // of work that no caller waits for; ended by End
	cancel  context.CancelCauseFunc
	running sync.WaitGroup

	mu    sync.Mutex // guards ended
	ended bool
}

// NewLife returns a life that goes on until its End is called.
func NewLife() *Life {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Life{ctx: ctx, cancel: cancel}
}

// Context ends with the life, and its cause is that of End.
func (l *Life) Context() context.Context { return l.ctx }

// Enter has End wait until the caller calls Leave, and returns true, or returns false after the end.
func (l *Life) Enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.running.Add(1)
	return true
}

// Leave ends what Enter has begun.
func (l *Life) Leave() { l.running.Done() }

// Go calls f in a goroutine that End waits for, and returns true, or returns false after the end.
func (l *Life) Go(f func()) bool {
	if !l.Enter() {
		return false
	}
	go func() {
		defer l.Leave()
		f()
	}()
	return true
}

// End ends the context, and returns once all that was begun has ended. Nothing begins afterwards. The cause nil is
// [context.Canceled].
func (l *Life) End(cause error) {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.cancel(cause)
	l.running.Wait()
}
