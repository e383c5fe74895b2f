package main

import (
	"errors"
	"fmt"
	"sync/atomic"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// swarmSize is the number of hosts that fetch the same closure at once.
const swarmSize = 6

// crowdRates are the holder's rates in Mbit/s. At the first, two processors are as busy as the link; at the second,
// which the short form leaves out, only the link is.
var crowdRates = []int{100, 20}

// crowd lets one host, and then six at once, fetch from one holder with a slow link; the links of the others are ten
// times as fast. It compares six hosts with one host: with nginx, six hosts would take six times as long, and the
// holder would send six times as many bytes.
func (b *bench) crowd() (rows []row, err error) {
	spec := b.slow()
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return nil, err
	}
	rates := crowdRates
	if b.short {
		rates = rates[:1]
	}
	for _, mbit := range rates {
		what := fmt.Sprintf("%s, %d hosts at once, one holder of %s", describe(spec, c), swarmSize, link(mbit))
		more, err := b.crowdAt(c, what, mbit)
		if err != nil {
			return rows, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// crowdAt measures crowd with a holder of one rate.
func (b *bench) crowdAt(c *corpus.Corpus, what string, mbit int) (rows []row, err error) {
	err = b.withLAN(func(l *lan.LAN) error {
		holder, err := b.sender(l, "holder", c, "")
		if err != nil {
			return err
		}
		if err := shape(mbit, holder); err != nil {
			return err
		}
		var again atomic.Int64
		all, err := b.turns(b.fewer(), what, b.hosts(l, "one host alone", c, holder, hostsAt{1, 10 * mbit}, &again),
			b.hosts(l, "last of six", c, holder, hostsAt{swarmSize, 10 * mbit}, &again))
		if err != nil {
			return err
		}
		alone, six := all[0], all[1]
		sent := value("crowd", "the same: what the holder sends ÷ what it sends to one host", "",
			six.out("sender")/alone.out("sender"), 1.3)
		repeated := value("crowd", "the same: how often Nix gave up on one of six hosts, and was started again", "",
			float64(again.Load())/float64(b.fewer()), 0)
		rows = []row{ratio("crowd", what, six, alone, 1.4), sent, repeated}
		return nil
	})
	return rows, err
}

// maxAttempts bounds the number of starts of Nix on one host.
const maxAttempts = 20

// insist starts Nix again when it fails, and counts these restarts in again.
func (b *bench) insist(h *lan.Host, c *corpus.Corpus, again *atomic.Int64) error {
	for i := 1; ; i++ {
		_, err := b.realise(h, c)
		if err == nil || i == maxAttempts || b.ctx.Err() != nil {
			return err
		}
		b.progress("starting Nix again: " + err.Error())
		again.Add(1)
	}
}

// A hostsAt is a number of hosts, and the rate of their links in Mbit/s.
type hostsAt struct{ n, mbit int }

// hosts returns a turn in which n new receivers fetch a corpus at once.
func (b *bench) hosts(l *lan.LAN, name string, c *corpus.Corpus, holder *sender, at hostsAt, again *atomic.Int64) turn {
	return turn{name, func(i int) (sample, error) {
		var w watch
		w.sender(holder, true)
		var fetch []func() error
		var added []*receiver
		for j := range at.n {
			r, err := b.throughNarbor(l, fmt.Sprintf("crowd%d-%d-%d", at.n, i, j), 1)
			if err != nil {
				return sample{}, err
			}
			added = append(added, r)
			if err := r.Shape(at.mbit); err != nil {
				return sample{}, err
			}
			w.proc("receivers' Nix", r.nix)
			w.proc("receivers' narbor", r.narbor)
			w.host("receivers", r.Host)
			fetch = append(fetch, func() error { return b.insist(r.Host, c, again) })
		}
		for _, r := range added {
			if _, err := r.WaitNeighbours(b.ctx, narbor, at.n); err != nil { // the holder and the other receivers
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

// lame fetches from four neighbours: one is unplugged just before Nix starts, and one has a link of 1 Mbit/s.
func (b *bench) lame() (rows []row, err error) {
	spec := corpus.Medium()
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return nil, err
	}
	what := describe(spec, c) + ", 4 neighbours at " + link(1000) + ", of which one is unplugged and one has " + link(1)
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.senders(l, 4, c, "")
		if err != nil {
			return err
		}
		if err := shape(1000, from...); err != nil {
			return err
		}
		clean := b.viaNarbor(l, "clean", c, from...)
		lamed := turn{"lame", func(i int) (s sample, err error) {
			r, err := b.throughNarbor(l, fmt.Sprintf("lame%d", i), len(from))
			if err != nil {
				return s, err
			}
			dead, slow := from[2], from[3]
			if err := errors.Join(slow.Shape(1), dead.Unplug()); err != nil {
				return s, err
			}
			s, err = b.observe(watching(r, from...), func() (float64, error) { return b.realise(r.Host, c) })
			return s, errors.Join(err, slow.Shape(1000), dead.Plug(), l.Remove(r.Host))
		}}
		all, err := b.turns(b.runs, what, clean, lamed)
		if err == nil {
			rows = []row{ratio("lame", what, all[1], all[0], 1.2)}
		}
		return err
	})
	return rows, err
}
