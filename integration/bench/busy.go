package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

const (
	// busyFactor is how many busy processes there are for each processor, which holder and asker share with them.
	busyFactor = 4
	// busyAskers ask one after the other, each for the whole corpus, so that no answer comes from memory.
	busyAskers = 3
)

// busy lets askers ask a holder for what it has and for what it has not, while the processors are taken.
func (b *bench) busy() (rows []row, err error) {
	c, err := corpus.Open(b.ctx, corpus.Medium(), b.progress)
	if err != nil {
		return nil, err
	}
	err = b.withLAN(func(l *lan.LAN) error {
		if _, err := b.senders(l, 1, c, ""); err != nil {
			return err
		}
		stop, err := load(b.ctx, busyFactor*runtime.NumCPU())
		if err != nil {
			return err
		}
		defer stop()
		var held, all []float64
		var notFound int
		var misses float64
		for i := range busyAskers {
			r, err := b.throughNarbor(l, fmt.Sprintf("asker%d", i), 1)
			if err != nil {
				return err
			}
			var here []string
			for _, info := range c.Infos {
				here = append(here, info.Path.String())
			}
			ms, lost, err := b.many(r.Host, here)
			if err != nil {
				return err
			}
			held, notFound = append(held, ms...), notFound+lost
			seconds, err := timed(func() error {
				_, _, err := b.many(r.Host, absent(missing))
				return err
			})
			if err != nil {
				return err
			}
			all = append(all, seconds)
			if err := l.Remove(r.Host); err != nil {
				return err
			}
		}
		misses = median(all)
		what := fmt.Sprintf("beside %d busy processes for each processor", busyFactor)
		rows = []row{
			value("busy", fmt.Sprintf("404 for one of %d held paths, %s", len(held), what), "", float64(notFound), 0),
			value("busy", "the slowest of these answers", "ms", slices.Max(held), 1000),
			value("busy", fmt.Sprintf("%d misses, %s", missing, what), "s", misses, 2),
		}
		return nil
	})
	return rows, err
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

// many requests narinfos as Nix does, 25 at a time. It returns each request's milliseconds and how many were answered 404.
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
