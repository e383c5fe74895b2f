package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// lineRate is the share of TCP's payload in a link's rate: 1448 of 1514 bytes.
const lineRate = 1448.0 / 1514

// An exchanged is the measurements of one fetch without Nix.
type exchanged struct {
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
	CPU     float64 `json:"cpu"`     // seconds of the fetching process
	Peak    int64   `json:"peakRSS"` // bytes, of the same
	Claims  float64 `json:"claims"`  // milliseconds for all claims
	Rate    float64 `json:"rate"`    // small NARs per second
	First   float64 `json:"first"`   // median milliseconds until a small NAR is there

	SendCPU  float64 `json:"sendCPU"`
	SendPeak int64   `json:"sendPeakRSS"`
}

// exchange measures narbor's nodes between two hosts, without Nix.
func (b *bench) exchange() (rows []row, err error) {
	c, err := corpus.Open(b.ctx, corpus.Noise(bigBytes), b.progress)
	if err != nil {
		return nil, err
	}
	err = b.withLAN(func(l *lan.LAN) error {
		from, err := l.Add(lan.HostConfig{Name: "sender", Binds: map[string]string{"opt": b.programs, "mnt": c.Cache}})
		if err != nil {
			return err
		}
		to, err := l.Add(lan.HostConfig{Name: "receiver", Binds: map[string]string{"opt": b.programs}})
		if err != nil {
			return err
		}
		if _, err := from.Run(b.ctx, "cp", "-r", "/mnt", "/srv/cache"); err != nil {
			return err
		}
		x := exchanger{b, from, to, c.Top.String()}
		for _, measure := range []func() ([]row, error){x.shaped, x.unshaped, x.small} {
			more, err := measure()
			if err != nil {
				return err
			}
			rows = append(rows, more...)
		}
		return nil
	})
	return rows, err
}

type exchanger struct {
	b        *bench
	from, to *lan.Host
	top      string
}

// shaped fetches 1 GiB over links of a known rate.
func (x exchanger) shaped() (rows []row, err error) {
	for _, mbit := range []int{1000, 2500} {
		if err := x.from.Shape(mbit); err != nil {
			return nil, err
		}
		runs, err := x.runs("big", x.top)
		if err != nil {
			return nil, err
		}
		rate := medianOf(runs, func(e exchanged) float64 { return float64(e.Bytes) / e.Seconds })
		what := fmt.Sprintf("1 GiB, incompressible, of line rate at %g Gbit/s (%.0f MB/s)", float64(mbit)/1000, rate/1e6)
		rows = append(rows, atLeast("exchange", what, "", rate/(float64(mbit)*1e6/8*lineRate), 0.95))
	}
	return rows, x.from.Shape(0)
}

// unshaped fetches 1 GiB as fast as two cores go, and compares that with a stream of bare libp2p.
func (x exchanger) unshaped() ([]row, error) {
	var blocks, bare []exchanged
	for range x.b.runs {
		for _, k := range []struct {
			kind string
			all  *[]exchanged
		}{{"bare", &bare}, {"big", &blocks}} {
			e, err := x.run(k.kind, x.top)
			if err != nil {
				return nil, err
			}
			*k.all = append(*k.all, e)
		}
	}
	rate := func(e exchanged) float64 { return float64(e.Bytes) / e.Seconds / 1e6 }
	ours, theirs := medianOf(blocks, rate), medianOf(bare, rate)
	gb := func(f func(exchanged) float64) float64 {
		return medianOf(blocks, func(e exchanged) float64 { return f(e) / float64(e.Bytes) * 1e9 })
	}
	peak := func(f func(exchanged) int64) float64 {
		return medianOf(blocks, func(e exchanged) float64 { return float64(f(e) >> 20) })
	}
	return []row{
		atLeast("exchange", fmt.Sprintf("1 GiB, not shaped (%.0f MB/s), of a bare libp2p stream (%.0f MB/s)", ours, theirs), "",
			ours/theirs, 0.85),
		value("exchange", "processor time to send a GB", "s", gb(func(e exchanged) float64 { return e.SendCPU }), 2),
		value("exchange", "processor time to receive and verify a GB", "s", gb(func(e exchanged) float64 { return e.CPU }), 2.5),
		value("exchange", "peak RSS serving 1 GiB", "MiB", peak(func(e exchanged) int64 { return e.SendPeak }), 96),
		value("exchange", "peak RSS fetching 1 GiB", "MiB", peak(func(e exchanged) int64 { return e.Peak }), 128),
	}, nil
}

// small asks for many claims at once, and fetches NARs of 20 KB.
func (x exchanger) small() ([]row, error) {
	runs, err := x.runs("small", strconv.Itoa(smallNARs))
	if err != nil {
		return nil, err
	}
	return []row{
		value("exchange", fmt.Sprintf("%d claims", claims), "ms", medianOf(runs, func(e exchanged) float64 { return e.Claims }), 60),
		atLeast("exchange", "NARs of 20 KB, 32 at a time", "/s", medianOf(runs, func(e exchanged) float64 { return e.Rate }), 3000),
		value("exchange", "until a NAR of 20 KB is there, one at a time", "ms",
			medianOf(runs, func(e exchanged) float64 { return e.First }), 3),
	}, nil
}

func (x exchanger) runs(kind, arg string) (all []exchanged, err error) {
	for range x.b.runs {
		e, err := x.run(kind, arg)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// run fetches once, with new processes on both sides.
func (x exchanger) run(kind, arg string) (e exchanged, err error) {
	x.b.progress("exchange: " + kind)
	p, err := x.from.StartHelper("/opt/bench", exchangeRole, "serve-"+kind)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, p.Kill()) }()
	out, err := x.to.Run(x.b.ctx, "/opt/bench", exchangeRole, "fetch-"+kind, x.from.Addr4.String(), arg)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		return e, fmt.Errorf("%w in %q", err, out)
	}
	u, err := p.Usage()
	e.SendCPU, e.SendPeak = u.CPU.Seconds(), u.PeakRSS
	return e, err
}

func medianOf(all []exchanged, f func(exchanged) float64) float64 {
	var s []float64
	for _, e := range all {
		s = append(s, f(e))
	}
	return median(s)
}
