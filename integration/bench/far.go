package main

import (
	"fmt"
	"slices"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// upstream measures narinfo requests to a narbor that has an upstream and no neighbour, and to one of two that have
// lost their upstream.
func (b *bench) upstream() (rows []row, err error) {
	c, err := corpus.Open(b.ctx, corpus.Small(), b.progress)
	if err != nil {
		return nil, err
	}
	err = b.withLAN(func(l *lan.LAN) error {
		far, err := b.server(l, "upstream", c.Cache)
		if err != nil {
			return err
		}
		rows, err = b.added(l, far)
		if err != nil {
			return err
		}
		more, err := b.unplugged(l, c, far)
		rows = append(rows, more...)
		return err
	})
	return rows, err
}

// added measures the time that narbor adds to the upstream's own time for a miss.
func (b *bench) added(l *lan.LAN, far *sender) ([]row, error) {
	alone, err := b.settled(l, far, 0)
	if err != nil {
		return nil, err
	}
	direct, err := b.throughNginx(l, "direct", far.url)
	if err != nil {
		return nil, err
	}
	if err := direct.Shape(1000); err != nil { // the same as the downloader's
		return nil, err
	}
	var single, atOnce [2][]float64
	for range max(b.runs, 3) {
		for i, r := range []*receiver{direct, alone} {
			ms, err := b.single(r.Host, []string{far.url, lan.Substituter}[i], absent(singles), 404)
			if err != nil {
				return nil, err
			}
			single[i] = append(single[i], median(ms))
			seconds, err := b.miss(r.Host, missing)
			if err != nil {
				return nil, err
			}
			atOnce[i] = append(atOnce[i], seconds*1000/missing)
		}
	}
	const name, what = "upstream", "a miss, no neighbours, the upstream's own time taken off"
	return []row{value(name, what+", one at a time", "ms", median(single[1])-median(single[0]), 1),
		value(name, fmt.Sprintf("%s, %d of Nix's at once", what, missing), "ms", median(atOnce[1])-median(atOnce[0]), 1)}, nil
}

// unplugged measures narinfo requests without the upstream, for paths that a neighbour has and for paths without a
// holder.
func (b *bench) unplugged(l *lan.LAN, c *corpus.Corpus, far *sender) ([]row, error) {
	first, err := b.settled(l, far, 1)
	if err != nil {
		return nil, err
	}
	if _, err := b.realise(first.Host, c); err != nil {
		return nil, err
	}
	late, err := b.settled(l, far, 2)
	if err != nil {
		return nil, err
	}
	if err := far.Unplug(); err != nil {
		return nil, err
	}
	wait, err := b.single(late.Host, lan.Substituter, absent(1), 404)
	if err != nil {
		return nil, err
	}
	misses, err := b.single(late.Host, lan.Substituter, absent(singles), 404)
	if err != nil {
		return nil, err
	}
	var here []string
	for _, info := range c.Infos {
		here = append(here, info.Path.String())
	}
	hits, err := b.single(late.Host, lan.Substituter, here, 200)
	if err != nil {
		return nil, err
	}
	const name, what = "upstream", "a narinfo while the upstream is unplugged"
	return []row{value(name, what+", no holder: the first", "s", wait[0]/1000, 6),
		value(name, what+", no holder: the median of the others", "ms", median(misses), 20),
		value(name, what+", no holder: the slowest, which waits for a neighbour that still asks the upstream", "ms",
			slices.Max(misses), 300),
		value(name, what+", a neighbour has it: the slowest", "ms", slices.Max(hits), 20)}, nil
}

// settled adds a downloader and waits until it has the given number of neighbours.
func (b *bench) settled(l *lan.LAN, far *sender, neighbours int) (*receiver, error) {
	r, err := b.downloader(l, far)
	if err != nil {
		return nil, err
	}
	return r, b.settle(r.Host, neighbours)
}
