package main

import (
	"errors"
	"fmt"
	"time"

	"narbor/integration/lan"
)

// A sample is one turn of one rival.
type sample struct {
	Seconds float64         `json:"seconds"`
	Uses    map[string]use  `json:"uses,omitempty"`  // by the name of the process
	Wires   map[string]wire `json:"wires,omitempty"` // by the name of the host
}

// A use is a process's resource usage in a turn.
type use struct {
	CPU  float64 `json:"cpu"`     // seconds
	Peak int64   `json:"peakRSS"` // bytes
}

// A wire is the traffic on a host's cable in a turn, in bytes.
type wire struct {
	In  int64 `json:"in"`
	Out int64 `json:"out"`
}

// A watch is the processes and hosts to measure during a rival's turn. Several processes may share a name, and so may
// several hosts: a sample has the sum of their processor times and bytes, and the largest peak memory.
type watch struct {
	procs []watchedProc
	hosts []watchedHost
}

type watchedProc struct {
	name string
	*lan.Process
}

type watchedHost struct {
	name string
	*lan.Host
}

func (w *watch) proc(name string, p *lan.Process) { w.procs = append(w.procs, watchedProc{name, p}) }

func (w *watch) host(name string, h *lan.Host) { w.hosts = append(w.hosts, watchedHost{name, h}) }

// observe measures the processes and hosts of w while f runs. f returns the seconds for the sample.
func (b *bench) observe(w watch, f func() (float64, error)) (sample, error) {
	s := sample{Uses: map[string]use{}, Wires: map[string]wire{}}
	usage, wires := make([]lan.Usage, len(w.procs)), make([]lan.Wire, len(w.hosts))
	for i, p := range w.procs {
		var err error
		if usage[i], err = p.Usage(); err != nil {
			return s, err
		}
		if err := p.ResetPeak(); err != nil {
			return s, err
		}
	}
	for i, h := range w.hosts {
		var err error
		if wires[i], err = h.Wire(b.ctx); err != nil {
			return s, err
		}
	}
	var err error
	if s.Seconds, err = f(); err != nil {
		return s, err
	}
	for i, p := range w.procs {
		u, err := p.Usage()
		if err != nil {
			return s, err
		}
		sum := s.Uses[p.name]
		sum.CPU += (u.CPU - usage[i].CPU).Seconds()
		sum.Peak = max(sum.Peak, u.PeakRSS)
		s.Uses[p.name] = sum
	}
	for i, h := range w.hosts {
		now, err := h.Wire(b.ctx)
		if err != nil {
			return s, err
		}
		sum := s.Wires[h.name]
		sum.In += now.In - wires[i].In
		sum.Out += now.Out - wires[i].Out
		s.Wires[h.name] = sum
	}
	return s, nil
}

// A turn measures one rival once. i numbers the runs.
type turn struct {
	name string
	take func(i int) (sample, error)
}

// fewer is the number of runs for cases with turns that take minutes. Fewer runs suffice, because the link determines
// the time, which therefore varies little.
func (b *bench) fewer() int { return (b.runs + 2) / 3 }

// turns measures each rival once in each run, alternately.
func (b *bench) turns(runs int, what string, rivals ...turn) ([]series, error) {
	all := make([]series, len(rivals))
	for i := range runs {
		for j, r := range rivals {
			b.progress(fmt.Sprintf("%s: %s, run %d of %d", what, r.name, i+1, runs))
			s, err := r.take(i)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			all[j].Name = r.name
			all[j].Samples = append(all[j].Samples, s)
		}
	}
	return all, nil
}

// timed returns how many seconds f took.
func timed(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}

// together calls all functions at once and returns the seconds until the last one returns.
func together(fs []func() error) (float64, error) {
	return timed(func() error {
		errc := make(chan error, len(fs))
		for _, f := range fs {
			go func() { errc <- f() }()
		}
		var errs []error
		for range fs {
			errs = append(errs, <-errc)
		}
		return errors.Join(errs...)
	})
}
