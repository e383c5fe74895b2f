package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

const (
	missing = 1000 // absent paths that Nix asks for at once
	singles = 100  // absent paths that are asked for one after the other

	// idleTime is the time before narbor's memory is measured: by then, start and first discovery have ended.
	idleTime = 15 * time.Second
	// restTime is the time for which narbor's processor time is then counted.
	restTime = 20 * time.Second
)

// misses lets Nix ask for paths that neither its four neighbours nor an nginx on its own machine have.
func (b *bench) misses() (rows []row, err error) {
	c, err := corpus.Open(b.ctx, corpus.Small(), b.progress)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d misses, 4 neighbours, not shaped", missing)
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.senders(l, 4, c, "")
		if err != nil {
			return err
		}
		asker, err := b.throughNarbor(l, "asker", 4)
		if err != nil {
			return err
		}
		plain, err := b.server(l, "plain", c.Cache)
		if err != nil {
			return err
		}
		nix, err := b.startNix(plain.Host, fmt.Sprintf("substituters = http://127.0.0.1:%d", lan.NginxPort))
		if err != nil {
			return err
		}
		ask := func(h *lan.Host, w watch) func(int) (sample, error) {
			return func(int) (sample, error) {
				return b.observe(w, func() (float64, error) { return b.miss(h, missing) })
			}
		}
		var w watch
		w.proc("receiver's Nix", nix)
		w.proc("receiver's nginx", plain.nginx)
		through := watching(asker, from...)
		for _, s := range from { // the senders share this computer's processors and do most of the work
			through.proc("senders' Nix", s.nix)
		}
		// A turn takes less than a second, so that single turns vary much.
		all, err := b.turns(max(b.runs, 9), what, turn{"nginx on loopback", ask(plain.Host, w)}, turn{"narbor", ask(asker.Host, through)})
		if err == nil {
			rows = []row{ratio("misses", what, all[1], all[0], 1.3)}
		}
		return err
	})
	return rows, err
}

// miss lets Nix ask for n absent paths at once.
func (b *bench) miss(h *lan.Host, n int) (float64, error) {
	return timed(func() error {
		_, err := h.Run(b.ctx, "nix-store", append([]string{"--realise", "--dry-run"}, absent(n)...)...)
		return err
	})
}

// idle measures narbor while it is idle, and then the time of misses, at once and one at a time.
func (b *bench) idle() (rows []row, err error) {
	c, err := corpus.Open(b.ctx, corpus.Small(), b.progress)
	if err != nil {
		return nil, err
	}
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.senders(l, 2, c, "")
		if err != nil {
			return err
		}
		asker, err := b.throughNarbor(l, "asker", 2)
		if err != nil {
			return err
		}
		b.progress("idle")
		time.Sleep(idleTime)
		w := watching(asker, from[0])
		rest, err := b.observe(w, func() (float64, error) { return timed(func() error { time.Sleep(restTime); return nil }) })
		if err != nil {
			return err
		}
		for _, name := range []string{"sender's narbor", "receiver's narbor"} {
			u := rest.Uses[name]
			rows = append(rows, value("idle", name+", two neighbours: memory", "MiB", float64(u.Peak>>20), 60),
				value("idle", name+", two neighbours: processor", "%", 100*u.CPU/rest.Seconds, 0.1))
		}
		var all []float64
		for range b.runs {
			seconds, err := b.miss(asker.Host, missing)
			if err != nil {
				return err
			}
			all = append(all, seconds*1000/missing)
		}
		rows = append(rows, value("idle", fmt.Sprintf("a miss of %d at once, two neighbours", missing), "ms", median(all), 5))
		ms, err := b.single(asker.Host, lan.Substituter, absent(singles), 404)
		if err == nil {
			rows = append(rows, value("idle", "a miss, one at a time, two neighbours: median", "ms", median(ms), 5))
		}
		return err
	})
	return rows, err
}

// single lets curl request the narinfo of one path after the other from a cache. It returns each request's
// milliseconds.
func (b *bench) single(h *lan.Host, cache string, paths []string, want int) ([]float64, error) {
	args := []string{"-s", "-w", "%{http_code} %{time_total}\n"}
	for _, p := range paths {
		hp, _, _ := strings.Cut(strings.TrimPrefix(p, store.Dir+"/"), "-")
		args = append(args, "-o", "/dev/null", cache+"/"+hp+".narinfo")
	}
	out, err := h.Run(b.ctx, "curl", args...)
	if err != nil {
		return nil, err
	}
	var ms []float64
	for line := range strings.Lines(out) {
		var code int
		var seconds float64
		if _, err := fmt.Sscan(line, &code, &seconds); err != nil || code != want {
			return nil, fmt.Errorf("a narinfo was answered by %q (%v), want %d", line, err, want)
		}
		ms = append(ms, seconds*1000)
	}
	return ms, nil
}

// absent returns n random store paths: new ones in each call, because Nix caches misses.
func absent(n int) []string {
	var paths []string
	for range n {
		var id [20]byte
		for i := range id {
			id[i] = byte(rand.Uint32())
		}
		paths = append(paths, store.Dir+"/"+string(store.HashPartFromBytes(id))+"-absent")
	}
	return paths
}
