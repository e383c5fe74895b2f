package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

const (
	// busyFactor is the number of busy processes for each processor, beside holder and asker; shortFactor is that of
	// the short form. A row has a limit only if at most otherLoad times as many processes are runnable.
	busyFactor, shortFactor, otherLoad = 4, 2, 2
	// runningPoll is the interval of those samples.
	runningPoll = 100 * time.Millisecond
	// busyAskers ask one after the other, each for the whole corpus, so that no answer comes from memory.
	busyAskers = 3
)

// busy lets askers ask a holder for what it has and for what it has not, while the processors are taken.
func (b *bench) busy() (rows []row, err error) {
	c, err := corpus.Open(b.ctx, corpus.Medium(), b.progress)
	if err != nil {
		return nil, err
	}
	factor, askers := busyFactor, busyAskers
	if b.short {
		factor, askers = shortFactor, 1
	}
	var asked askedBusy
	err = b.withLAN(func(l *lan.LAN) error {
		if _, err := b.senders(l, 1, c, ""); err != nil {
			return err
		}
		stop, err := load(b.ctx, factor*runtime.NumCPU())
		if err != nil {
			return err
		}
		defer stop()
		for i := range askers {
			if err := b.askBusy(l, fmt.Sprintf("asker%d", i), c, &asked); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("beside %d busy processes for each processor", factor)
	rows = []row{
		value("busy", fmt.Sprintf("404 for one of %d held paths, %s", len(asked.held), what), "", float64(asked.notFound), 0),
		value("busy", "the slowest of these answers", "ms", slices.Max(asked.held), 1000),
		value("busy", fmt.Sprintf("%d misses, %s", missing, what), "s", median(asked.misses), 2),
	}
	if running := median(asked.running) / float64(runtime.NumCPU()); running > float64(factor*otherLoad) {
		b.progress(fmt.Sprintf("busy: %.0f processes were running for each processor, so that there is no limit", running))
		for i := range rows {
			rows[i].Limit = -1
		}
	}
	return rows, nil
}

// An askedBusy has the measurements of askers.
type askedBusy struct {
	held     []float64 // milliseconds of the answer for each path that the holder has
	notFound int       // how many of these were 404
	misses   []float64 // seconds for all absent paths of one asker
	running  []float64 // processes that ran at one time, on the whole computer
}

// askBusy adds an asker, lets it ask, and removes it.
func (b *bench) askBusy(l *lan.LAN, name string, c *corpus.Corpus, asked *askedBusy) error {
	r, err := b.throughNarbor(l, name, 1)
	if err != nil {
		return err
	}
	var here []string
	for _, info := range c.Infos {
		here = append(here, info.Path.String())
	}
	done := make(chan []float64)
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	go func() { done <- running(ctx) }()
	ms, lost, err := b.many(r.Host, here)
	if err != nil {
		return err
	}
	seconds, err := timed(func() error {
		_, _, err := b.many(r.Host, absent(missing))
		return err
	})
	if err != nil {
		return err
	}
	cancel()
	asked.running = append(asked.running, <-done...)
	asked.held, asked.notFound = append(asked.held, ms...), asked.notFound+lost
	asked.misses = append(asked.misses, seconds)
	return l.Remove(r.Host)
}

// running returns samples of the number of runnable processes, taken until ctx ends.
func running(ctx context.Context) (all []float64) {
	tick := time.NewTicker(runningPoll)
	defer tick.Stop()
	for {
		text, _ := os.ReadFile("/proc/stat")
		_, rest, _ := strings.Cut(string(text), "\nprocs_running ")
		var n float64
		if _, err := fmt.Sscan(rest, &n); err == nil {
			all = append(all, n)
		}
		select {
		case <-ctx.Done():
			return all
		case <-tick.C:
		}
	}
}

// load starts n processes that do nothing but use a processor.
func load(ctx context.Context, n int) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var all []*exec.Cmd
	stop = func() {
		cancel()
		for _, cmd := range all {
			cmd.Wait()
		}
	}
	for range n {
		cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			stop()
			return nil, err
		}
		all = append(all, cmd)
	}
	return stop, nil
}

// many requests narinfos as Nix does, 25 at a time. It returns each request's milliseconds and how many were answered
// 404.
func (b *bench) many(h *lan.Host, paths []string) (ms []float64, notFound int, err error) {
	args := []string{"-s", "--parallel", "--parallel-max", "25", "-w", "%{http_code} %{time_total}\n"}
	for _, p := range paths {
		hp, _, _ := strings.Cut(strings.TrimPrefix(p, store.Dir+"/"), "-")
		args = append(args, "-o", "/dev/null", lan.Substituter+"/"+hp+".narinfo")
	}
	out, err := h.Run(b.ctx, "curl", args...)
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(out) {
		var code int
		var seconds float64
		if _, err := fmt.Sscan(line, &code, &seconds); err != nil || code != 200 && code != 404 {
			return nil, 0, errors.Join(fmt.Errorf("a narinfo was answered by %q", line), err)
		}
		ms = append(ms, seconds*1000)
		if code == 404 {
			notFound++
		}
	}
	return ms, notFound, nil
}
