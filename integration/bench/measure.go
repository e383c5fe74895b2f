package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

const narbor = "/opt/narbor"

// idleTime is how long narbor is left alone before its memory is looked at: past start and first discovery.
const idleTime = 15 * time.Second

// A bench owns a LAN for each measurement.
type bench struct {
	ctx      context.Context
	dir      string
	programs string
}

func (b *bench) close() error { return os.RemoveAll(b.dir) }

func (b *bench) progress(s string) { fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), s) }

func (b *bench) measure(spec corpus.Spec, runs, misses int, noise int64) (report, error) {
	r := report{Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(b.ctx)}
	c, err := corpus.Open(b.ctx, spec, b.progress)
	if err != nil {
		return r, err
	}
	r.Corpus, r.Paths, r.Bytes = spec.Name, len(c.Infos), c.Bytes()
	for _, mbit := range []int{0, 1000} {
		result, err := b.closure(c, mbit, runs)
		if err != nil {
			return r, err
		}
		r.Closures = append(r.Closures, result)
	}
	big, err := corpus.Open(b.ctx, corpus.Noise(noise), b.progress)
	if err != nil {
		return r, err
	}
	if r.Big, err = b.big(big); err != nil {
		return r, err
	}
	r.Miss, r.Idle, err = b.missAndIdle(c, misses)
	return r, err
}

// withLAN calls f with a new LAN. Its logs go with it, unless f fails.
func (b *bench) withLAN(f func(*lan.LAN) error) (err error) {
	dir, err := os.MkdirTemp(b.dir, "lan-")
	if err != nil {
		return err
	}
	l, err := lan.New(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			logs, _ := l.Logs()
			for _, name := range logs {
				text, _ := os.ReadFile(name)
				fmt.Fprintf(os.Stderr, "---- %s:\n%s", filepath.Base(name), text)
			}
		}
		err = errors.Join(err, l.Close())
	}()
	return f(l)
}

// sender adds a machine that has the corpus in memory, and shares it by narbor and by nginx.
func (b *bench) sender(l *lan.LAN, name string, c *corpus.Corpus) (*lan.Host, *lan.Process, string, error) {
	h, err := l.Add(lan.HostConfig{Name: name, Nix: c.Nix, Copy: true, Binds: map[string]string{"opt": b.programs, "mnt": c.Cache}})
	if err != nil {
		return nil, nil, "", err
	}
	if _, err := h.Run(b.ctx, "cp", "-r", "/mnt", "/srv/cache"); err != nil {
		return nil, nil, "", err
	}
	_, url, err := h.StartNginx("/srv/cache")
	if err != nil {
		return nil, nil, "", err
	}
	p, err := b.startNarbor(h, "substituters =")
	return h, p, url, err
}

// receiver adds a machine with an empty store.
func (b *bench) receiver(l *lan.LAN, name string) (*lan.Host, error) {
	return l.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": b.programs}})
}

func (b *bench) startNarbor(h *lan.Host, conf ...string) (*lan.Process, error) {
	if err := b.startNix(h, conf...); err != nil {
		return nil, err
	}
	return h.StartNarbor(narbor)
}

// startNix starts nix-daemon as NixOS configures it, with as many jobs as there are processors.
func (b *bench) startNix(h *lan.Host, conf ...string) error {
	conf = append(conf, "max-jobs = auto", "trusted-public-keys = "+corpus.PublicKey())
	if err := h.Configure(conf...); err != nil {
		return err
	}
	_, err := h.StartNixDaemon()
	return err
}

// closure fetches the corpus in turn through nginx and through narbor, each time into a new machine.
func (b *bench) closure(c *corpus.Corpus, mbit, runs int) (closureResult, error) {
	r := closureResult{Mbit: mbit}
	err := b.withLAN(func(l *lan.LAN) error {
		from, sharing, url, err := b.sender(l, "sender", c)
		if err != nil {
			return err
		}
		if err := from.Shape(mbit); mbit > 0 && err != nil {
			return err
		}
		for i := range runs {
			b.progress(fmt.Sprintf("%s, run %d of %d", r.link(), i+1, runs))
			seconds, err := b.throughNginx(l, i, url, c)
			if err != nil {
				return err
			}
			r.Nginx = append(r.Nginx, seconds)
			if err := b.throughNarbor(l, i, sharing, c, &r); err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

func (b *bench) throughNginx(l *lan.LAN, run int, url string, c *corpus.Corpus) (float64, error) {
	to, err := b.receiver(l, "nginx"+strconv.Itoa(run))
	if err != nil {
		return 0, err
	}
	if err := b.startNix(to, "substituters = "+url); err != nil {
		return 0, err
	}
	seconds, err := b.realise(to, c)
	return seconds, errors.Join(err, l.Remove(to))
}

func (b *bench) throughNarbor(l *lan.LAN, run int, sharing *lan.Process, c *corpus.Corpus, r *closureResult) error {
	to, err := b.receiver(l, "narbor"+strconv.Itoa(run))
	if err != nil {
		return err
	}
	fetching, err := b.startNarbor(to, "substituters = "+lan.Substituter)
	if err != nil {
		return err
	}
	if _, err := to.WaitNeighbours(b.ctx, narbor, 1); err != nil {
		return err
	}
	seconds, sent, received, err := b.observed(sharing, fetching, func() (float64, error) { return b.realise(to, c) })
	if err != nil {
		return err
	}
	r.Narbor = append(r.Narbor, seconds)
	r.SenderCPU = append(r.SenderCPU, sent.CPU.Seconds())
	r.ReceiverCPU = append(r.ReceiverCPU, received.CPU.Seconds())
	r.SenderPeak = max(r.SenderPeak, sent.PeakRSS)
	r.ReceiverPeak = max(r.ReceiverPeak, received.PeakRSS)
	return l.Remove(to)
}

// observed measures what two processes use while f runs.
func (b *bench) observed(p, q *lan.Process, f func() (float64, error)) (seconds float64, up, uq lan.Usage, err error) {
	var before [2]lan.Usage
	for i, proc := range []*lan.Process{p, q} {
		if err := proc.ResetPeak(); err != nil {
			return 0, up, uq, err
		}
		if before[i], err = proc.Usage(); err != nil {
			return 0, up, uq, err
		}
	}
	if seconds, err = f(); err != nil {
		return 0, up, uq, err
	}
	up, err = p.Usage()
	if err != nil {
		return 0, up, uq, err
	}
	uq, err = q.Usage()
	up.CPU -= before[0].CPU
	uq.CPU -= before[1].CPU
	return seconds, up, uq, err
}

// realise returns how many seconds Nix took to fetch the closure.
func (b *bench) realise(h *lan.Host, c *corpus.Corpus) (float64, error) {
	start := time.Now()
	_, err := h.Realise(b.ctx, c.Top.String())
	seconds := time.Since(start).Seconds()
	if err != nil {
		return 0, err
	}
	paths, err := h.Requisites(b.ctx, c.Top.String())
	if err == nil && len(paths) != len(c.Infos) {
		err = fmt.Errorf("%s: the closure has %d paths, want %d", h.Name, len(paths), len(c.Infos))
	}
	return seconds, err
}

// big fetches one archive and looks at the memory of both narbors.
func (b *bench) big(c *corpus.Corpus) (r bigResult, err error) {
	b.progress("one big archive")
	err = b.withLAN(func(l *lan.LAN) error {
		_, sharing, _, err := b.sender(l, "sender", c)
		if err != nil {
			return err
		}
		var closure closureResult
		err = b.throughNarbor(l, 0, sharing, c, &closure)
		if err == nil {
			r = bigResult{Bytes: c.Bytes(), Seconds: closure.Narbor[0], SenderPeak: closure.SenderPeak, ReceiverPeak: closure.ReceiverPeak}
		}
		return err
	})
	return r, err
}

// missAndIdle asks for paths that neither of two neighbours has; first all three narbors have nothing to do.
func (b *bench) missAndIdle(c *corpus.Corpus, misses int) (miss missResult, idle idleResult, err error) {
	b.progress("idle, and misses with two neighbours")
	err = b.withLAN(func(l *lan.LAN) error {
		_, first, url, err := b.sender(l, "first", c)
		if err != nil {
			return err
		}
		if _, _, _, err = b.sender(l, "second", c); err != nil {
			return err
		}
		asker, err := b.receiver(l, "asker")
		if err != nil {
			return err
		}
		fetching, err := b.startNarbor(asker, "substituters = "+lan.Substituter)
		if err != nil {
			return err
		}
		if _, err := asker.WaitNeighbours(b.ctx, narbor, 2); err != nil {
			return err
		}
		time.Sleep(idleTime)
		if idle, err = idleUse(first, fetching); err != nil {
			return err
		}
		plain, err := b.receiver(l, "plain")
		if err != nil {
			return err
		}
		if err := b.startNix(plain, "substituters = "+url); err != nil {
			return err
		}
		miss, err = b.miss(asker, plain, misses)
		return err
	})
	return miss, idle, err
}

func idleUse(sharing, fetching *lan.Process) (idleResult, error) {
	s, err := sharing.Usage()
	if err != nil {
		return idleResult{}, err
	}
	f, err := fetching.Usage()
	return idleResult{SharingRSS: s.RSS, FetchingRSS: f.RSS}, err
}

// miss lets Nix on both hosts ask for absent paths, and curl for one after the other.
func (b *bench) miss(asker, plain *lan.Host, misses int) (missResult, error) {
	r := missResult{Paths: misses}
	for _, m := range []struct {
		host *lan.Host
		ms   *float64
	}{{plain, &r.NginxMs}, {asker, &r.NarborMs}} {
		start := time.Now()
		if _, err := m.host.Run(b.ctx, "nix-store", append([]string{"--realise", "--dry-run"}, absent(misses)...)...); err != nil {
			return r, err
		}
		*m.ms = time.Since(start).Seconds() * 1000 / float64(misses)
	}
	args := []string{"-s", "-w", "%{http_code} %{time_total}\n"}
	for _, p := range absent(100) {
		hp, _, _ := strings.Cut(strings.TrimPrefix(p, store.Dir+"/"), "-")
		args = append(args, "-o", "/dev/null", lan.Substituter+"/"+hp+".narinfo")
	}
	out, err := asker.Run(b.ctx, "curl", args...)
	if err != nil {
		return r, err
	}
	var ms []float64
	for line := range strings.Lines(out) {
		var code int
		var seconds float64
		if _, err := fmt.Sscan(line, &code, &seconds); err != nil || code != 404 {
			return r, fmt.Errorf("a miss was answered by %q (%v)", line, err)
		}
		ms = append(ms, seconds*1000)
	}
	r.SingleMs, r.SingleWorstMs = median(ms), worst(ms)
	return r, nil
}

// absent makes up store paths: new ones each time, for Nix remembers.
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
