package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store/nixstore"
)

const (
	// indexRole is the first argument of bench when it measures the index of names on a host.
	indexRole = "index-of-names"
	// unrelated is the number of paths in the index, and in a store that holds no version of the wanted ones.
	unrelated = 50_000
)

// rebuildsCase is a closure before and after a mass rebuild, and hosts that have the first and want the second.
type rebuildsCase struct {
	*bench
	first, second *corpus.Corpus
	zstd          string // the second one's cache, compressed
	what          string
	nginx         series // of the short form, which has one rate
}

// rebuilds fetches a closure after a mass rebuild: from a neighbour, and from an upstream, with the closure before in
// the store and without. Then it measures the cost where there is nothing to rebuild from.
func (b *bench) rebuilds() (rows []row, err error) {
	c := &rebuildsCase{bench: b}
	spec := b.slow()
	if c.first, c.second, err = corpus.OpenRebuilt(b.ctx, spec, b.progress); err != nil {
		return nil, err
	}
	if c.zstd, err = c.second.Zstd(b.ctx, b.progress); err != nil {
		return nil, err
	}
	var changed int64
	infos := c.second.Changed(c.first)
	for _, info := range infos {
		changed += info.NarSize
	}
	c.what = fmt.Sprintf("%s after a mass rebuild (%d paths, %d MB of it changed)", describe(spec, c.second), len(infos), changed/1e6)
	measures := []func() ([]row, error){c.neighbour, c.upstream, c.unshaped, c.index}
	if !b.short {
		measures = append(measures, c.gigabit, c.nothing)
	}
	for _, measure := range measures {
		more, err := measure()
		if err != nil {
			return rows, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// neighbour fetches from a neighbour at 100 Mbit/s, or at 20 in the short form: there Nix takes as long as the faster
// link.
func (c *rebuildsCase) neighbour() (rows []row, err error) {
	mbit := 100
	if c.short {
		mbit = slowRate
	}
	err = c.withLAN(func(l *lan.LAN) error {
		from, err := c.sender(l, "sender", c.second, "")
		if err != nil {
			return err
		}
		ready, err := c.server(l, "zstd", c.zstd)
		if err != nil {
			return err
		}
		if err := shape(mbit, from, ready); err != nil {
			return err
		}
		what := c.what + ", " + link(mbit)
		all, err := c.turns(c.fewer(), what, c.with(l, c.first.Nix, ready), c.with(l, "", from), c.with(l, c.first.Nix, from))
		if err != nil {
			return err
		}
		c.nginx = all[0]
		bytes := value("rebuilds", "the same: bytes on the wire ÷ those without the closure before", "",
			all[2].out("sender")/all[1].out("sender"), 0.27)
		bytes.Exact = true
		rows = []row{ratio("rebuilds", what, all[2], all[0], 0.35), bytes,
			ratio("rebuilds", what, all[2], all[1], -1)}
		return nil
	})
	return rows, err
}

// upstream fetches from an upstream behind 20 Mbit/s, with no neighbour.
func (c *rebuildsCase) upstream() (rows []row, err error) {
	err = c.withLAN(func(l *lan.LAN) error {
		far, err := c.server(l, "upstream", c.zstd)
		if err != nil {
			return err
		}
		if err := shape(upstreamRate, far); err != nil {
			return err
		}
		what := c.what + ", upstream behind " + link(upstreamRate)
		direct := c.with(l, c.first.Nix, far)
		direct.name = "Nix alone"
		rivals := []turn{c.alone(l, far), direct}
		if c.short {
			rivals = rivals[:1] // the line is as fast as that of c.nginx
		}
		all, err := c.turns(c.fewer(), what, rivals...)
		if err != nil {
			return err
		}
		if c.short {
			all = append(all, c.nginx)
		}
		bytes := value("rebuilds", "the same: bytes over the line ÷ those of Nix alone", "",
			all[0].out("sender")/all[1].out("sender"), 0.30)
		bytes.Exact = true
		rows = []row{ratio("rebuilds", what, all[0], all[1], 0.35), bytes}
		return nil
	})
	return rows, err
}

func (c *rebuildsCase) unshaped() ([]row, error) { return c.fast(0, 1.05) }
func (c *rebuildsCase) gigabit() ([]row, error)  { return c.fast(1000, 0.90) }

// fast fetches over a link that is about as fast as a rebuild.
func (c *rebuildsCase) fast(mbit int, limit float64) (rows []row, err error) {
	err = c.withLAN(func(l *lan.LAN) error {
		from, err := c.sender(l, "sender", c.second, "")
		if err != nil {
			return err
		}
		if err := shape(mbit, from); err != nil {
			return err
		}
		what := c.what + ", " + link(mbit)
		all, err := c.turns(c.runs, what, c.with(l, "", from), c.with(l, c.first.Nix, from))
		if err == nil {
			rows = []row{ratio("rebuilds", what, all[1], all[0], limit)}
		}
		return err
	})
	return rows, err
}

// nothing fetches with an empty store, and with one of as many paths as a large store has, none of them a version of a
// wanted one.
func (c *rebuildsCase) nothing() (rows []row, err error) {
	err = c.withLAN(func(l *lan.LAN) error {
		from, err := c.sender(l, "sender", c.second, "")
		if err != nil {
			return err
		}
		if err := shape(1000, from); err != nil {
			return err
		}
		what := fmt.Sprintf("%s, %s, a store of %d other paths", describe(c.slow(), c.second), link(1000), unrelated)
		full := turn{"narbor, a store of other paths", func(i int) (s sample, err error) {
			r, err := c.receiverOf(l, "", from)
			if err != nil {
				return s, err
			}
			if err := fillStore(c.ctx, r.Host); err != nil {
				return s, err
			}
			return c.take(l, r, from)
		}}
		all, err := c.turns(c.runs, what, c.with(l, "", from), full)
		if err != nil {
			return err
		}
		cpu := func(s series) float64 {
			return median(s.of(func(t sample) float64 { return t.Uses["receiver's narbor"].CPU }))
		}
		rows = []row{ratio("rebuilds", what, all[1], all[0], 1.02), value("rebuilds",
			"the same: processor time of the receiver's narbor ÷ that with an empty store", "", cpu(all[1])/cpu(all[0]), 1.03)}
		return nil
	})
	return rows, err
}

// with returns a turn in which a new receiver with the given store fetches the second closure: through narbor if the
// sender has it, else through nginx.
func (c *rebuildsCase) with(l *lan.LAN, nix string, from *sender) turn {
	name := "narbor"
	if from.narbor == nil {
		name = "nginx, ready-made zstd"
	} else if nix == "" {
		name = "narbor without the closure before"
	}
	return turn{name, func(int) (sample, error) {
		r, err := c.receiverOf(l, nix, from)
		if err != nil {
			return sample{}, err
		}
		return c.take(l, r, from)
	}}
}

// alone returns a turn in which a new receiver with the first closure fetches the second one through a narbor with an
// upstream.
func (c *rebuildsCase) alone(l *lan.LAN, far *sender) turn {
	return turn{"narbor", func(int) (s sample, err error) {
		c.named++
		r, err := c.receiver(l, lan.HostConfig{Name: fmt.Sprintf("alone%d", c.named), Nix: c.first.Nix, Copy: true}, lan.Substituter)
		if err != nil {
			return s, err
		}
		if r.narbor, err = r.StartNarbor(narbor, "--upstream", far.url); err != nil {
			return s, err
		}
		if err := c.settle(r.Host, 0); err != nil {
			return s, err
		}
		return c.take(l, r, far)
	}}
}

// receiverOf adds a receiver with the given store, and its narbor if the sender has one.
func (c *rebuildsCase) receiverOf(l *lan.LAN, nix string, from *sender) (*receiver, error) {
	c.named++
	url := from.url
	if from.narbor != nil {
		url = lan.Substituter
	}
	r, err := c.receiver(l, lan.HostConfig{Name: fmt.Sprintf("rebuilds%d", c.named), Nix: nix, Copy: nix != ""}, url)
	if err != nil || from.narbor == nil {
		return r, err
	}
	return r, c.addNarbor(r, 1)
}

// take lets the receiver fetch the second closure and removes the host.
func (c *rebuildsCase) take(l *lan.LAN, r *receiver, from *sender) (sample, error) {
	w := watching(r)
	w.sender(from, from.narbor != nil)
	s, err := c.observe(w, func() (float64, error) { return c.realise(r.Host, c.second) })
	return s, errors.Join(err, l.Remove(r.Host))
}

// fillStore adds files with the names of store paths that are not valid.
func fillStore(ctx context.Context, h *lan.Host) error {
	_, err := h.Run(ctx, "sh", "-c", fmt.Sprintf(
		`cd /nix/store && seq -f %%032.0f %d | sed 's/^0*\(.*\)/&-package-\1-1.0/' | xargs touch`, unrelated))
	return err
}

// An indexed is the cost of the index of names.
type indexed struct {
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"` // that stay in use
}

// index measures the index of the names of a large store.
func (c *rebuildsCase) index() (rows []row, err error) {
	err = c.withLAN(func(l *lan.LAN) error {
		h, err := c.host(l, lan.HostConfig{Name: "store"})
		if err != nil {
			return err
		}
		if _, err := c.startNix(h, "substituters ="); err != nil {
			return err
		}
		if err := fillStore(c.ctx, h); err != nil {
			return err
		}
		out, err := h.Run(c.ctx, "/opt/bench", indexRole)
		if err != nil {
			return err
		}
		var got indexed
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			return err
		}
		what := fmt.Sprintf("index of %d paths", unrelated)
		rows = []row{value("rebuilds", what+": time", "ms", got.Seconds*1000, -1),
			value("rebuilds", what+": memory", "MiB", float64(got.Bytes)/(1<<20), 8)}
		return nil
	})
	return rows, err
}

// indexHost prints what the index of this host's store costs.
func indexHost(ctx context.Context, stdout io.Writer) error {
	s, err := nixstore.Open(ctx, nixstore.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	before := heap()
	start := time.Now()
	if found := s.Namesakes("package-1-1.0"); len(found) != 1 {
		return fmt.Errorf("the index has %d paths of a name, want 1", len(found))
	}
	took := time.Since(start)
	got := indexed{took.Seconds(), heap() - before}
	runtime.KeepAlive(s)
	return json.NewEncoder(stdout).Encode(got)
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
