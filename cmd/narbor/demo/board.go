package demo

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"narbor/cmd/narbor/dashboard"
)

// A board shows how far the fetch is. It implements [io.Writer] for the bytes that were served.
type board struct {
	bars       *bars // nil if nothing can be redrawn
	out        io.Writer
	total      int64
	handedOver atomic.Int64
	caught     sync.Once

	mu    sync.Mutex
	bytes map[string]int64 // received from each machine
}

func newBoard(out io.Writer, redraw bool, total int64, machines ...string) *board {
	b := &board{out: out, total: total, bytes: map[string]int64{}}
	if redraw {
		b.bars = newBars(out, total, machines...)
	}
	return b
}

// Write counts bytes that were handed over.
func (b *board) Write(p []byte) (int, error) {
	n := b.handedOver.Add(int64(len(p)))
	if b.bars != nil {
		b.bars.set(verified, n)
	}
	return len(p), nil
}

func (b *board) received(name string, bytes int64) {
	b.mu.Lock()
	b.bytes[name] = bytes
	b.mu.Unlock()
	if b.bars != nil {
		b.bars.set(name, bytes)
	}
}

// say prints a line above the bars.
func (b *board) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if b.bars != nil {
		b.bars.say(text)
		return
	}
	fmt.Fprintf(b.out, "%s (%s of %s are there)\n", text, dashboard.Amount(b.handedOver.Load()), dashboard.Amount(b.total))
}

func (b *board) end() {
	if b.bars != nil {
		b.bars.end()
	}
}
