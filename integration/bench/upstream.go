package main

import (
	"errors"
	"fmt"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// upstreamRate is the pace in Mbit/s of the line to the internet, for all hosts of a LAN together.
const upstreamRate = 20

// crowdUpstream lets one host, and then six, fetch what nobody near has: over one line, from one upstream. A rival is
// Nix that asks the upstream itself, and for six, one host alone.
func (b *bench) crowdUpstream() (rows []row, err error) {
	spec := b.slow()
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return nil, err
	}
	cache, err := c.Zstd(b.ctx, b.progress)
	if err != nil {
		return nil, err
	}
	const name = "crowd-upstream"
	what := fmt.Sprintf("%s from an upstream behind %s", describe(spec, c), link(upstreamRate))
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.server(l, "upstream", cache)
		if err != nil {
			return err
		}
		if err := shape(upstreamRate, from); err != nil {
			return err
		}
		all, err := b.turns(b.fewer(), what, b.viaNginx(l, "Nix alone", c, from),
			b.downloaders(l, "one host", c, from, 1, 0), b.downloaders(l, "last of six", c, from, crowdSize, 0))
		if err != nil {
			return err
		}
		direct, one, six := all[0], all[1], all[2]
		pause := time.Duration(median(one.seconds()) / 2 / (crowdSize - 1) * float64(time.Second))
		all, err = b.turns(b.fewer(), what, b.downloaders(l, "six that start one after the other", c, from, crowdSize, pause))
		if err != nil {
			return err
		}
		rows = []row{
			ratio(name, what+": one host through narbor ÷ Nix alone", one, direct, 1.03),
			ratio(name, what+": six hosts at once ÷ one", six, one, 1.15),
			value(name, "the same: bytes over the line ÷ those for one", "", six.out("sender")/one.out("sender"), 1.05),
			value(name, "six that start over half the time of one: bytes over the line ÷ those for one", "", all[0].out("sender")/one.out("sender"), 1.25),
		}
		return nil
	})
	return rows, err
}

// downloaders is a turn in which n new receivers fetch a corpus from one upstream, each a while after the one before.
func (b *bench) downloaders(l *lan.LAN, name string, c *corpus.Corpus, from *sender, n int, pause time.Duration) turn {
	return turn{name, func(i int) (sample, error) {
		var w watch
		w.sender(from, false)
		var fetch []func() error
		var added []*receiver
		for j := range n {
			r, err := b.throughNginx(l, fmt.Sprintf("down%d-%d-%d-%d", n, pause.Milliseconds(), i, j), lan.Substituter)
			if err != nil {
				return sample{}, err
			}
			added = append(added, r)
			if r.narbor, err = r.StartNarbor(narbor, "--upstream", from.url); err != nil {
				return sample{}, err
			}
			if err := r.Shape(1000); err != nil {
				return sample{}, err
			}
			w.proc("receivers' Nix", r.nix)
			w.proc("receivers' narbor", r.narbor)
			w.host("receivers", r.Host)
			fetch = append(fetch, func() error {
				time.Sleep(time.Duration(j) * pause)
				_, err := b.realise(r.Host, c)
				return err
			})
		}
		for _, r := range added {
			if err := b.settle(r.Host, n-1); err != nil {
				return sample{}, err
			}
		}
		s, err := b.observe(w, func() (float64, error) { return together(fetch) })
		for _, r := range added {
			err = errors.Join(err, l.Remove(r.Host))
		}
		return s, err
	}}
}
