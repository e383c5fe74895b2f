package main

import (
	"fmt"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

func link(mbit int) string {
	switch {
	case mbit == 0:
		return "not shaped"
	case mbit%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", mbit/1000)
	default:
		return fmt.Sprintf("%d Mbit/s", mbit)
	}
}

// describe returns the name and the size of a corpus for the report.
func describe(spec corpus.Spec, c *corpus.Corpus) string {
	return fmt.Sprintf("%s (%d paths, %d MB)", spec.Name, len(c.Infos), c.Bytes()/1e6)
}

// slow returns the corpus for slow links. With --short it is a smaller one than that for which the limits are defined,
// so that all cases take five minutes.
func (b *bench) slow() corpus.Spec {
	if b.short {
		return corpus.Small()
	}
	return corpus.Medium()
}

// pair fetches a closure from one neighbour, through nginx and through narbor alternately.
func (b *bench) pair(name string, spec corpus.Spec, mbit int, limit float64) (r row, err error) {
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return r, err
	}
	what := describe(spec, c) + ", " + link(mbit)
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.sender(l, "sender", c, c.Cache)
		if err != nil {
			return err
		}
		if err := shape(mbit, from); err != nil {
			return err
		}
		runs := b.runs
		if spec.Name == corpus.Large().Name {
			runs = b.fewer()
		}
		all, err := b.turns(runs, what, b.viaNginx(l, "nginx", c, from), b.viaNarbor(l, "narbor", c, from))
		if err == nil {
			r = ratio(name, what, all[1], all[0], limit)
		}
		return err
	})
	return r, err
}

func shape(mbit int, senders ...*sender) error {
	for _, s := range senders {
		if mbit == 0 {
			continue
		}
		if err := s.Shape(mbit); err != nil {
			return err
		}
	}
	return nil
}

// gigabit fetches at the rate of most cables. With --short there is no nginx with compressed archives.
func (b *bench) gigabit() ([]row, error) {
	if b.short {
		r, err := b.pair("gigabit", corpus.Medium(), 1000, 0.80)
		return []row{r}, err
	}
	rows, err := b.precompressed("gigabit", corpus.Medium(), 1000, b.runs, 0.80, 1.00)
	if err != nil {
		return rows, err
	}
	more, err := b.others("gigabit", 1000, 0.80)
	return append(rows, more...), err
}

// unshaped fetches over links that are faster than the processors.
func (b *bench) unshaped() ([]row, error) {
	r, err := b.pair("unshaped", corpus.Medium(), 0, 1.10)
	if err != nil {
		return nil, err
	}
	more, err := b.others("unshaped", 0, 1.10)
	return append([]row{r}, more...), err
}

// others fetches the medium closure with the newest Nix, and the large one, from one neighbour.
func (b *bench) others(name string, mbit int, limit float64) (rows []row, err error) {
	if b.short {
		return nil, nil
	}
	nixes, err := lan.Nixes(b.ctx)
	if err != nil {
		return nil, err
	}
	newest := *b
	newest.nix = nixes[len(nixes)-1]
	r, err := newest.pair(name, corpus.Medium(), mbit, limit)
	if err != nil {
		return nil, err
	}
	r.What += ", Nix " + newest.nix.Version
	rows = append(rows, r)
	if !b.large {
		return rows, nil
	}
	r, err = b.pair(name, corpus.Large(), mbit, limit)
	return append(rows, r), err
}

// wifi fetches over 100 Mbit/s, a rate at which a precompressed cache has an advantage.
func (b *bench) wifi() (rows []row, err error) {
	return b.precompressed("wifi", b.slow(), 100, b.fewer(), 0.50, 1.20)
}

// precompressed fetches from a neighbour and from two nginx: one has archives as they are, the other has them compressed.
// The limits are those against the one and the other.
func (b *bench) precompressed(name string, spec corpus.Spec, mbit, runs int, plain, packed float64) (rows []row, err error) {
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return nil, err
	}
	compressed, err := c.Zstd(b.ctx, b.progress)
	if err != nil {
		return nil, err
	}
	what := describe(spec, c) + ", " + link(mbit)
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.sender(l, "sender", c, c.Cache)
		if err != nil {
			return err
		}
		ready, err := b.server(l, "zstd", compressed)
		if err != nil {
			return err
		}
		if err := shape(mbit, from, ready); err != nil {
			return err
		}
		all, err := b.turns(runs, what, b.viaNginx(l, "nginx", c, from), b.viaNarbor(l, "narbor", c, from),
			b.viaNginx(l, "nginx, ready-made zstd", c, ready))
		if err == nil {
			rows = []row{ratio(name, what, all[1], all[0], plain), ratio(name, what, all[1], all[2], packed)}
		}
		return err
	})
	return rows, err
}

// four fetches from four neighbours at once, or from one of them.
func (b *bench) four() (rows []row, err error) {
	spec := b.slow()
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return nil, err
	}
	what := describe(spec, c) + ", 4 neighbours at " + link(100)
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := b.senders(l, 4, c, c.Cache)
		if err != nil {
			return err
		}
		if err := shape(100, from...); err != nil {
			return err
		}
		all, err := b.turns(b.fewer(), what, b.viaNginx(l, "one nginx", c, from[0]), b.viaNarbor(l, "narbor", c, from...))
		if err == nil {
			rows = []row{ratio("four", what, all[1], all[0], 0.25)}
		}
		return err
	})
	return rows, err
}

// senders adds n senders. The nginx of the first one serves cache.
func (b *bench) senders(l *lan.LAN, n int, c *corpus.Corpus, cache string) ([]*sender, error) {
	var all []*sender
	for i := range n {
		if i > 0 {
			cache = ""
		}
		s, err := b.sender(l, fmt.Sprintf("sender%d", i), c, cache)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// bigBytes is the size of the one path of the big rows.
const bigBytes = 1 << 30

// big fetches one large path and measures the memory that this takes.
func (b *bench) big() (rows []row, err error) {
	for _, k := range []struct {
		spec  corpus.Spec
		kind  string
		mbit  int
		limit float64
	}{
		{corpus.Mixed(bigBytes), "one path of 1 GiB, compressible", 1000, 0.90},
		{corpus.Noise(bigBytes), "one path of 1 GiB, incompressible", 1000, 1.15},
		{corpus.Noise(bigBytes), "one path of 1 GiB, incompressible", 0, 2.0},
	} {
		r, err := b.pair("big", k.spec, k.mbit, k.limit)
		if err != nil {
			return rows, err
		}
		r.What = k.kind + ", " + link(k.mbit)
		rows = append(rows, r)
		if k.mbit == 0 {
			rows = append(rows,
				value("big", "peak RSS of the narbor that sends it", "MiB", float64(r.Narbor.peak("sender's narbor")>>20), 96),
				value("big", "peak RSS of the narbor that fetches it", "MiB", float64(r.Narbor.peak("receiver's narbor")>>20), 128))
		}
	}
	return rows, nil
}

// first fetches the corpus of narbor's first benchmark.
func (b *bench) first() ([]row, error) {
	var rows []row
	for _, k := range []struct {
		mbit  int
		limit float64
	}{{0, 2.0}, {1000, 1.15}} {
		r, err := b.pair("first", corpus.First(), k.mbit, k.limit)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}
