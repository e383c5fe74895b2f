package netmon

import (
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// leastSpare is the part of one processor that must have been idle for work that can be left out, and spareFresh the
// time over which that is measured.
const (
	leastSpare = 0.25
	spareFresh = time.Second
)

// A Processors knows whether the processors of this machine have time to spare. Its methods may be called concurrently.
type Processors struct {
	// Idle returns for how many seconds the processors have been idle since the machine started, added up.
	// [IdleProcessors] is one.
	Idle func() (seconds float64, err error)

	mu    sync.Mutex // guards the rest
	idle  float64
	at    time.Time
	spare bool
}

// IdleProcessors reads proc_stat(5), which counts the time of waiting for disks apart. The error is not nil where there
// is no such file.
func IdleProcessors() (seconds float64, err error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, err
	}
	stat, err := fs.Stat()
	return stat.CPUTotal.Idle + stat.CPUTotal.Iowait, err
}

// Spare reports whether a quarter of a processor was idle lately, in all. It is false for the first second, and where
// that is not known.
func (p *Processors) Spare() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	passed := now.Sub(p.at)
	if passed < spareFresh {
		return p.spare
	}
	idle, err := p.Idle()
	p.spare = err == nil && !p.at.IsZero() && idle-p.idle >= leastSpare*passed.Seconds()
	p.idle, p.at = idle, now
	return p.spare
}
