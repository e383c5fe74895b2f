package fetch

import (
	"io"
	"sync"
	"time"
)

// A Throughput is the average rate of one download from an upstream, of all that were under way of late.
type Throughput struct {
	mu     sync.Mutex // guards the rest
	active int
	since  time.Time     // until when took is counted
	took   time.Duration // of all downloads together
	bytes  int64
	ended  time.Time // when the last download did
}

// begin records one more download, until end is called.
func (p *Throughput) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	p.active++
}

func (p *Throughput) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	p.active--
	p.ended = p.since
}

// settle counts the time until now. The caller holds mu.
func (p *Throughput) settle() {
	now := time.Now()
	p.took += time.Duration(p.active) * now.Sub(p.since)
	p.since = now
	if p.active == 0 && now.Sub(p.ended) > throughputIdle {
		p.took, p.bytes = 0, 0
	}
	if p.took > throughputMemory {
		p.took, p.bytes = p.took/2, p.bytes/2
	}
}

func (p *Throughput) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
}

// Rate is in bytes per second; 0 is unknown.
func (p *Throughput) Rate() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	if p.took < throughputLeast {
		return 0
	}
	return int64(float64(p.bytes) / p.took.Seconds())
}

// A meteredReader counts the bytes that an upstream sends.
type meteredReader struct {
	throughput *Throughput
	r          io.Reader
}

func (r meteredReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.throughput.add(n)
	return n, err
}
