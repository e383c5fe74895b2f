package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

const narbor = "/opt/narbor"

// realiseTimeout bounds the time of one Nix: the longest takes eight minutes, for a path of 1 GiB over 20 Mbit/s.
const realiseTimeout = 30 * time.Minute

// A bench owns a LAN for each measurement.
type bench struct {
	ctx      context.Context
	dir      string
	programs string
	runs     int
	short    bool
	large    bool
	nix      lan.Nix // of the receivers; zero is this machine's own
	named    int     // number of hosts that are named by number
}

func (b *bench) close() error { return os.RemoveAll(b.dir) }

func (b *bench) progress(s string) { fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), s) }

// withLAN calls f with a new LAN. It removes the LAN's logs unless f fails.
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
		if err != nil && b.ctx.Err() == nil {
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

// A sender has a corpus in memory, and shares it by narbor and perhaps by nginx.
type sender struct {
	*lan.Host
	nix    *lan.Process
	narbor *lan.Process
	nginx  *lan.Process // nil without
	url    string
}

// sender adds a sender. Its nginx serves cache; with "" it has no nginx.
func (b *bench) sender(l *lan.LAN, name string, c *corpus.Corpus, cache string) (*sender, error) {
	cfg := lan.HostConfig{Name: name, Nix: c.Nix, Copy: true}
	if cache != "" {
		cfg.Binds = map[string]string{"mnt": cache}
	}
	s, err := b.neighbour(l, cfg)
	if err != nil || cache == "" {
		return s, err
	}
	return s, b.serve(s, cache)
}

// neighbour adds a machine that shares its store by narbor.
func (b *bench) neighbour(l *lan.LAN, cfg lan.HostConfig) (s *sender, err error) {
	s = &sender{}
	if s.Host, err = b.host(l, cfg); err != nil {
		return nil, err
	}
	if s.nix, err = b.startNix(s.Host, "substituters ="); err != nil {
		return nil, err
	}
	s.narbor, err = s.StartNarbor(narbor)
	return s, err
}

// host adds a machine with our programs.
func (b *bench) host(l *lan.LAN, cfg lan.HostConfig) (*lan.Host, error) {
	binds := map[string]string{"opt": b.programs}
	maps.Copy(binds, cfg.Binds)
	cfg.Binds = binds
	return l.Add(cfg)
}

// server adds a machine that has a binary cache in memory and serves it by nginx alone.
func (b *bench) server(l *lan.LAN, name, cache string) (*sender, error) {
	s := &sender{}
	var err error
	if s.Host, err = l.Add(lan.HostConfig{Name: name, Binds: map[string]string{"mnt": cache}}); err != nil {
		return nil, err
	}
	return s, b.serve(s, cache)
}

func (b *bench) serve(s *sender, cache string) error {
	if _, err := s.Run(b.ctx, "cp", "-r", "/mnt", "/srv/cache"); err != nil {
		return err
	}
	var err error
	s.nginx, s.url, err = s.StartNginx("/srv/cache")
	return err
}

// startNix starts nix-daemon as NixOS configures it, with as many jobs as there are processors.
func (b *bench) startNix(h *lan.Host, conf ...string) (*lan.Process, error) {
	conf = append(conf, "max-jobs = auto", "trusted-public-keys = "+corpus.PublicKey())
	if err := h.Configure(conf...); err != nil {
		return nil, err
	}
	return h.StartNixDaemon()
}

// A receiver has an empty store.
type receiver struct {
	*lan.Host
	nix    *lan.Process
	narbor *lan.Process // nil if it fetches from an nginx
}

// throughNginx adds a receiver that fetches from a URL.
func (b *bench) throughNginx(l *lan.LAN, name, url string) (*receiver, error) {
	return b.receiver(l, lan.HostConfig{Name: name, System: b.nix.System}, url)
}

// receiver adds a receiver that fetches from a URL, with further lines in its nix.conf.
func (b *bench) receiver(l *lan.LAN, cfg lan.HostConfig, url string, conf ...string) (*receiver, error) {
	h, err := b.host(l, cfg)
	if err != nil {
		return nil, err
	}
	conf = append(conf, "substituters = "+url, "narinfo-cache-negative-ttl = 0") // some are started again; see insist
	nix, err := b.startNix(h, conf...)
	return &receiver{Host: h, nix: nix}, err
}

// throughNarbor adds a receiver that fetches from its neighbours.
func (b *bench) throughNarbor(l *lan.LAN, name string, neighbours int) (*receiver, error) {
	r, err := b.throughNginx(l, name, lan.Substituter)
	if err != nil {
		return nil, err
	}
	return r, b.addNarbor(r, neighbours)
}

// addNarbor starts a receiver's narbor, and waits until it has neighbours.
func (b *bench) addNarbor(r *receiver, neighbours int) (err error) {
	if r.narbor, err = r.StartNarbor(narbor); err != nil {
		return err
	}
	return b.settle(r.Host, neighbours)
}

// settle waits until narbor has the given number of neighbours and discovery has ended: until then a miss takes longer.
func (b *bench) settle(h *lan.Host, neighbours int) error {
	for {
		s, err := h.WaitNeighbours(b.ctx, narbor, neighbours)
		if err != nil || s.Settled {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// watching returns the processes and wires to measure while a receiver fetches.
func watching(r *receiver, from ...*sender) watch {
	var w watch
	w.proc("receiver's Nix", r.nix)
	if r.narbor != nil {
		w.proc("receiver's narbor", r.narbor)
	}
	w.host("receiver", r.Host)
	for _, s := range from {
		w.sender(s, r.narbor != nil)
	}
	return w
}

func (w *watch) sender(s *sender, narbor bool) {
	if narbor {
		w.proc("sender's narbor", s.narbor)
	} else {
		w.proc("sender's nginx", s.nginx)
	}
	w.host("sender", s.Host)
}

// realise lets Nix fetch the closure, and checks that all of it has arrived.
func (b *bench) realise(h *lan.Host, c *corpus.Corpus) (float64, error) {
	ctx, cancel := context.WithTimeout(b.ctx, realiseTimeout)
	defer cancel()
	seconds, err := timed(func() error {
		said, err := h.Realise(ctx, c.Top.String())
		if err == nil {
			return nil
		}
		return errors.Join(fmt.Errorf("%s: nix-store --realise: %s", h.Name, complaints(said)), ctx.Err())
	})
	if err != nil {
		return 0, err
	}
	paths, err := h.Requisites(b.ctx, c.Top.String())
	if err == nil && len(paths) != len(c.Infos) {
		err = fmt.Errorf("%s: the closure has %d paths, want %d", h.Name, len(paths), len(c.Infos))
	}
	return seconds, err
}

// complaints removes from Nix's output the messages that it prints for every path.
func complaints(said string) string {
	var b strings.Builder
	for line := range strings.Lines(said) {
		if !strings.HasPrefix(line, "copying path ") && !strings.HasPrefix(line, "  /nix/store/") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// viaNginx returns a turn in which a new receiver fetches a corpus from the sender's nginx.
func (b *bench) viaNginx(l *lan.LAN, name string, c *corpus.Corpus, from *sender) turn {
	return turn{name, func(i int) (sample, error) {
		r, err := b.throughNginx(l, fmt.Sprintf("%s-nginx%d", from.Name, i), from.url)
		if err != nil {
			return sample{}, err
		}
		s, err := b.observe(watching(r, from), func() (float64, error) { return b.realise(r.Host, c) })
		return s, errors.Join(err, l.Remove(r.Host))
	}}
}

// viaNarbor returns a turn in which a new receiver fetches a corpus from its neighbours.
func (b *bench) viaNarbor(l *lan.LAN, name string, c *corpus.Corpus, from ...*sender) turn {
	return turn{name, func(i int) (sample, error) {
		r, err := b.throughNarbor(l, fmt.Sprintf("%s-narbor%d", from[0].Name, i), len(from))
		if err != nil {
			return sample{}, err
		}
		s, err := b.observe(watching(r, from...), func() (float64, error) { return b.realise(r.Host, c) })
		return s, errors.Join(err, l.Remove(r.Host))
	}}
}
