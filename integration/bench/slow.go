package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

const (
	// slowRate is the rate in Mbit/s of the slow lines.
	slowRate = 20
	// killedPoll is the interval at which the number of received blocks is read.
	killedPoll = 100 * time.Millisecond
)

// slowTimeouts are the values in seconds of Nix's stalled-download-timeout: some of public configurations, and the
// default.
var slowTimeouts = []int{5, 30, 300}

// A slowArchive is one large path.
type slowArchive struct {
	*corpus.Corpus
	kind string
	zstd string // the cache, compressed
}

// A slowFetch is a host that fetches an archive over a slow line. The line is its own, so that several fetch at once.
type slowFetch struct {
	series
	slowArchive
	nix     lan.Nix
	stalled int  // seconds of stalled-download-timeout; 0 is a fetch through nginx
	killed  bool // whether its narbor is killed and started again when half of the archive is there
}

// A lane is fetches one after the other.
type lane []*slowFetch

// slowLine fetches one large path over a line of 20 Mbit/s with the oldest and the newest Nix. The nginx has archives
// that are compressed by zstd already. Rivals fetch at once, each from a neighbour of its own: the line limits them,
// and other load slows them all. Only the narbors that compress take turns, since three would need both processors.
func (b *bench) slowLine() (rows []row, err error) {
	nixes, err := lan.Nixes(b.ctx)
	if err != nil {
		return nil, err
	}
	archives, err := b.slowArchives()
	if err != nil {
		return nil, err
	}
	timeouts := slowTimeouts
	if b.short {
		timeouts = timeouts[:1]
	}
	var groups [][]*slowFetch
	var rounds [][]lane // one for each version of Nix: all at once would need 20 GB of memory
	for _, nix := range []lan.Nix{nixes[0], nixes[len(nixes)-1]} {
		var round []lane
		for _, a := range archives {
			group := slowGroup(a, nix, timeouts)
			groups, round = append(groups, group), append(round, slowLanes(group)...)
		}
		rounds = append(rounds, round)
	}
	if b.short {
		rounds = [][]lane{slices.Concat(rounds...)}
	} else {
		b.progress("slow: this takes about 20 minutes a run")
	}
	for i := range b.fewer() {
		for j, round := range rounds {
			b.progress(fmt.Sprintf("slow: %d lines at once, %d of %d, run %d of %d", len(round), j+1, len(rounds), i+1, b.fewer()))
			if err := b.fetchSlowly(round); err != nil {
				return nil, err
			}
		}
	}
	for _, group := range groups {
		rows = append(rows, slowRows(group)...)
	}
	return rows, nil
}

// slowArchives returns one path that no compressor makes smaller, and one that zstd makes as small as other store
// paths.
func (b *bench) slowArchives() (all []slowArchive, err error) {
	specs := []corpus.Spec{corpus.Noise(bigBytes), corpus.Mixed(bigBytes)}
	if b.short {
		specs = []corpus.Spec{corpus.Noise(32 << 20), corpus.Mixed(96 << 20)}
	}
	for i, kind := range []string{"incompressible", "compressible"} {
		a := slowArchive{kind: kind}
		if a.Corpus, err = corpus.Open(b.ctx, specs[i], b.progress); err != nil {
			return nil, err
		}
		if a.zstd, err = a.Zstd(b.ctx, b.progress); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// slowGroup returns the rivals for an archive and a version of Nix. The first is nginx, and the last is killed.
func slowGroup(a slowArchive, nix lan.Nix, timeouts []int) []*slowFetch {
	all := []*slowFetch{{series: series{Name: "nginx, ready-made zstd"}, slowArchive: a, nix: nix}}
	for _, stalled := range timeouts {
		all = append(all, &slowFetch{series: series{Name: "narbor"}, slowArchive: a, nix: nix, stalled: stalled})
	}
	if a.kind == "incompressible" { // compression would hide that bytes come twice
		all = append(all, &slowFetch{series: series{Name: "narbor, killed"}, slowArchive: a, nix: nix, stalled: 300, killed: true})
	}
	return all
}

// slowLanes lets the narbors of a group that compress fetch one after the other, and all else at once.
func slowLanes(group []*slowFetch) (lanes []lane) {
	if group[0].kind == "compressible" {
		return []lane{group[:1], group[1:]}
	}
	for _, f := range group {
		lanes = append(lanes, lane{f})
	}
	return lanes
}

// slowRows compares the others of a group with its first.
func slowRows(group []*slowFetch) (rows []row) {
	nginx := group[0]
	what := fmt.Sprintf("one path of %d MB, %s, %s, Nix %s", nginx.Bytes()/1e6, nginx.kind, link(slowRate), nginx.nix.Version)
	for _, f := range group[1:] {
		if !f.killed {
			rows = append(rows, ratio("slow", fmt.Sprintf("%s, stalled-download-timeout %d", what, f.stalled), f.series, nginx.series, 1.1))
			continue
		}
		in := median(f.of(func(t sample) float64 { return float64(t.Wires["receiver"].In) }))
		bytes := value("slow", what+": bytes ÷ NAR, narbor killed and started again at half", "", in/float64(f.Bytes()), 1.05)
		bytes.Exact = true
		rows = append(rows, ratio("slow", what+", narbor killed and started again at half", f.series, nginx.series, -1), bytes)
	}
	return rows
}

// fetchSlowly fetches in all lanes at once, from the moment when the hosts of their first fetches are ready.
func (b *bench) fetchSlowly(lanes []lane) error {
	var ready sync.WaitGroup
	ready.Add(len(lanes))
	var g errgroup.Group
	for _, fetches := range lanes {
		g.Go(func() error {
			begin := sync.OnceFunc(ready.Done)
			defer begin()
			for _, f := range fetches {
				err := b.withLAN(func(l *lan.LAN) error {
					r, from, err := b.slowHosts(l, f)
					begin()
					ready.Wait()
					if err != nil {
						return err
					}
					return b.fetchOne(f, r, from)
				})
				if err != nil {
					return fmt.Errorf("%s, Nix %s: %w", f.Name, f.nix.Version, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// fetchOne adds a sample to a fetch.
func (b *bench) fetchOne(f *slowFetch, r *receiver, from *sender) error {
	w := watching(r, from)
	if f.killed { // another process has taken its place
		w.procs = slices.DeleteFunc(w.procs, func(p watchedProc) bool { return p.Process == r.narbor })
	}
	s, err := b.observe(w, func() (float64, error) { return b.realiseSlowly(f, r) })
	f.Samples = append(f.Samples, s)
	return err
}

// slowHosts adds the host that fetches, and its neighbour behind the slow line.
func (b *bench) slowHosts(l *lan.LAN, f *slowFetch) (r *receiver, from *sender, err error) {
	url := lan.Substituter
	if f.stalled == 0 {
		from, err = b.server(l, "nginx", f.zstd)
	} else {
		from, err = b.neighbour(l, lan.HostConfig{Name: "sender", Nix: f.Nix}) // not a copy in memory: the line is slower than a disk
	}
	if err != nil {
		return nil, nil, err
	}
	conf := []string{fmt.Sprintf("stalled-download-timeout = %d", f.stalled)}
	if f.stalled == 0 {
		url, conf = from.url, nil
	}
	if r, err = b.receiver(l, lan.HostConfig{Name: "receiver", System: f.nix.System}, url, conf...); err != nil {
		return nil, nil, err
	}
	if f.stalled != 0 {
		err = b.addNarbor(r, 1)
	}
	return r, from, errors.Join(err, from.Shape(slowRate))
}

// realiseSlowly lets Nix fetch the archive, and kills narbor on the way if it is to be killed.
func (b *bench) realiseSlowly(f *slowFetch, r *receiver) (float64, error) {
	if !f.killed {
		return b.realise(r.Host, f.Corpus)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	fetch := func() error {
		defer cancel()
		_, err := b.realise(r.Host, f.Corpus)
		return err
	}
	return together([]func() error{fetch, func() error { return killHalfway(ctx, r, f.Infos[0]) }})
}

// killHalfway kills narbor when half of the archive is there, and starts it again.
func killHalfway(ctx context.Context, r *receiver, info store.Info) error {
	for {
		s, err := r.Status(ctx, narbor)
		if err != nil {
			return fmt.Errorf("before half of it was there: %w", err)
		}
		var blocks int64
		for _, n := range s.Neighbours {
			blocks += n.BlocksReceived
		}
		if blocks >= int64(store.NumBlocks(info.NarSize)/2) {
			break
		}
		time.Sleep(killedPoll)
	}
	if err := r.narbor.Kill(); err != nil {
		return err
	}
	var err error
	r.narbor, err = r.StartNarbor(narbor)
	return err
}
