package main

import (
	"io"
	"os"
	"sync"
	"time"
)

// simBuffer is the number of bytes that a connection buffers before a write blocks, as with a socket.
const simBuffer = 1 << 20

// A pipe is one direction of a connection: written bytes can be read after the sender's latency.
type pipe struct {
	from *simMachine

	mu              sync.Mutex // guards the rest
	changed         chan struct{}
	chunks          []chunk
	held            int       // bytes in chunks
	carried         int64     // bytes, ever
	free            time.Time // when the line is free
	closed          bool
	readBy, writeBy time.Time
}

type chunk struct {
	b  []byte
	at time.Time // when it arrives
}

func newPipe(from *simMachine) *pipe { return &pipe{from: from, changed: make(chan struct{})} }

// tell wakes all waiting reads and writes. The caller holds mu.
func (p *pipe) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) until(deadline *time.Time, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*deadline = t
	p.tell()
}

// close closes the pipe. If now is true it drops the buffered bytes; otherwise they can still be read.
func (p *pipe) close(now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if now {
		p.chunks = nil
	}
	p.tell()
}

// wait waits for a change, for also, or until moment, but at most until the deadline. It returns an error if the
// deadline has passed already. The caller holds mu, which wait unlocks meanwhile.
func (p *pipe) wait(deadline, moment time.Time, also <-chan struct{}) error {
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return os.ErrDeadlineExceeded
	}
	if moment.IsZero() || !deadline.IsZero() && deadline.Before(moment) {
		moment = deadline
	}
	changed := p.changed
	p.mu.Unlock()
	defer p.mu.Lock()
	var timeout <-chan time.Time
	if !moment.IsZero() {
		t := time.NewTimer(time.Until(moment))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-changed:
	case <-also:
	case <-timeout:
	}
	return nil
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var moment time.Time
		asleep := p.from.awake()
		if len(p.chunks) > 0 && asleep == nil {
			moment = p.chunks[0].at
			if !time.Now().Before(moment) {
				return p.take(b), nil
			}
		}
		if p.closed && len(p.chunks) == 0 {
			return 0, io.EOF
		}
		if err := p.wait(p.readBy, moment, asleep); err != nil {
			return 0, err
		}
	}
}

// take copies bytes of the first chunk to b and returns their number. The caller holds mu.
func (p *pipe) take(b []byte) int {
	c := &p.chunks[0]
	n := copy(b, c.b)
	if c.b = c.b[n:]; len(c.b) == 0 {
		p.chunks = p.chunks[1:]
	}
	if p.held -= n; p.held < simBuffer {
		p.tell()
	}
	return n
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && p.held >= simBuffer {
		if err := p.wait(p.writeBy, time.Time{}, nil); err != nil {
			return 0, err
		}
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.from.mu.Lock()
	latency, rate := p.from.latency, p.from.rate
	p.from.mu.Unlock()
	if now := time.Now(); p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(len(b)) * time.Second / time.Duration(rate))
	p.chunks = append(p.chunks, chunk{append([]byte(nil), b...), p.free.Add(latency)})
	p.held += len(b)
	p.carried += int64(len(b))
	p.tell()
	return len(b), nil
}
