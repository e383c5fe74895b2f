package main

import (
	"errors"
	"fmt"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// upstreamRate is the rate in Mbit/s of the line to the internet, which all hosts of a LAN share: that of slow lines.
const upstreamRate = slowRate

// crowdUpstream lets one host, and then six, fetch a closure that no neighbour has from one upstream over one line. It
// compares one host with a Nix that asks the upstream directly, and six hosts with one host.
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
			b.downloaders(l, c, from, downloading{name: "one host", hosts: 1}),
			b.downloaders(l, c, from, downloading{name: "last of six", hosts: swarmSize}))
		if err != nil {
			return err
		}
		direct, one, six := all[0], all[1], all[2]
		half := time.Duration(median(one.seconds()) / 2 * float64(time.Second))
		rows = []row{
			ratio(name, what+": one host through narbor ÷ Nix alone", one, direct, 1.03),
			ratio(name, what+": six hosts at once ÷ one", six, one, 1.15),
			value(name, "the same: bytes over the line ÷ those for one", "", six.out("sender")/one.out("sender"), 1.05),
		}
		for _, odd := range []downloading{
			{name: "six that start over half the time of one", hosts: swarmSize, pause: half / (swarmSize - 1)},
			{name: "six, of which one dies halfway", hosts: swarmSize, killed: half},
			{name: "five, and one at 1 Mbit/s that wants nothing", hosts: swarmSize, slow: true},
			{name: "six, and one that says to download and does not", hosts: swarmSize, liar: true},
		} {
			got, err := b.turns(b.fewer(), what, b.downloaders(l, c, from, odd))
			if err != nil {
				return fmt.Errorf("%s: %w", odd.name, err)
			}
			rows = append(rows, ratio(name, odd.name+": the last ÷ one alone", got[0], one, -1),
				value(name, odd.name+": bytes over the line ÷ those for one", "", got[0].out("sender")/one.out("sender"), 1.25))
		}
		return nil
	})
	return rows, err
}

// A downloading is a number of hosts that download the same closure, and the fault of one of them.
type downloading struct {
	name   string
	hosts  int
	pause  time.Duration // between the starts of two hosts
	killed time.Duration // time until the last host's narbor is killed and its cable pulled; 0 is never
	slow   bool          // the last host has a line of 1 Mbit/s, and its own Nix fetches nothing
	liar   bool          // one more host offers to download for others and does not
}

// downloaders returns a turn in which new receivers fetch a corpus from one upstream.
func (b *bench) downloaders(l *lan.LAN, c *corpus.Corpus, from *sender, d downloading) turn {
	return turn{d.name, func(i int) (_ sample, err error) {
		var w watch
		w.sender(from, false)
		var fetch []func() error
		var added []*receiver
		defer func() {
			for _, r := range added {
				err = errors.Join(err, l.Remove(r.Host))
			}
		}()
		for range d.hosts {
			r, err := b.downloader(l, from)
			if err != nil {
				return sample{}, err
			}
			added = append(added, r)
		}
		for j, r := range added {
			if j == d.hosts-1 && (d.slow || d.killed > 0) {
				continue
			}
			w.proc("receivers' Nix", r.nix)
			w.proc("receivers' narbor", r.narbor)
			w.host("receivers", r.Host)
			fetch = append(fetch, func() error {
				time.Sleep(time.Duration(j) * d.pause)
				_, err := b.realise(r.Host, c)
				return err
			})
		}
		neighbours := d.hosts - 1
		if d.liar {
			liar, err := b.lyingProxy(l, c, from)
			if err != nil {
				return sample{}, err
			}
			added = append(added, liar)
			neighbours++
		}
		for _, r := range added[:d.hosts] {
			if err := b.settle(r.Host, neighbours); err != nil {
				return sample{}, err
			}
		}
		last := added[d.hosts-1]
		if d.slow {
			if err := last.Shape(1); err != nil {
				return sample{}, err
			}
		}
		if d.killed > 0 {
			fetch = append(fetch, func() error {
				go b.realise(last.Host, c) // this fails when its narbor is killed
				time.Sleep(d.killed)
				return errors.Join(last.narbor.Kill(), last.Unplug())
			})
		}
		return b.observe(w, func() (float64, error) { return together(fetch) })
	}}
}

// downloader adds a receiver that runs narbor with an upstream.
func (b *bench) downloader(l *lan.LAN, from *sender) (*receiver, error) {
	b.named++
	r, err := b.throughNginx(l, fmt.Sprintf("down%d", b.named), lan.Substituter)
	if err != nil {
		return nil, err
	}
	if r.narbor, err = r.StartNarbor(narbor, "--upstream", from.url); err != nil {
		return nil, err
	}
	return r, r.Shape(1000)
}

// lyingProxy adds a host that offers to download for others and does not.
func (b *bench) lyingProxy(l *lan.LAN, c *corpus.Corpus, from *sender) (*receiver, error) {
	b.named++
	h, err := l.Add(lan.HostConfig{Name: fmt.Sprintf("liar%d", b.named), Nix: c.Nix, Binds: map[string]string{"opt": b.programs}})
	if err != nil {
		return nil, err
	}
	nix, err := b.startNix(h, "substituters =")
	if err != nil {
		return nil, err
	}
	_, err = h.StartHelper("/opt/hostile", "--fault", "idle-proxy", "--upstream", from.url+"/")
	return &receiver{Host: h, nix: nix}, err
}
