package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/urfave/cli/v2"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/p2p"
	"narbor/p2p/ask"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/nixconf"
	"narbor/store/spool"
	"narbor/store/upstream"
	"narbor/trust"
)

const (
	// fetchParallel is how many NARs are fetched at once: enough that small ones do not wait for each other.
	fetchParallel = 4
	// lookupParallel is how many claims are asked for at once; they leave in few requests.
	lookupParallel = 64
	// lookupTries and lookupPause are how often, and after how long, a neighbourhood that has not answered is asked.
	lookupTries, lookupPause = 4, 300 * time.Millisecond
	// maxClosure bounds the paths of one fetch: far above any system, so that false references end.
	maxClosure = 1 << 20
)

func fetchCommand() *cli.Command {
	flags := append(peerFlags(),
		&cli.StringFlag{Name: "to", Category: categoryKeep, EnvVars: env("to"),
			Usage: "`DIR` in Nix's binary-cache layout (default: cache in the state directory, which `narbor run` shares)"},
		stateFlag(), upstreamFlag(), downloadRateFlag(),
	)
	return &cli.Command{
		Name:      "fetch",
		Usage:     "get store paths, with all they refer to, from neighbours into a directory",
		ArgsUsage: "PATH|HASH…",
		Description: "The directory is a binary cache for Nix (nix copy --from file://DIR …). Paths that are in it already\n" +
			"are not fetched again, so after an interruption the same command goes on where it was. It needs no `narbor run`.\n\n" +
			"With --upstream it may take from the internet what no neighbour has; neighbours with the same --upstream\n" +
			"download their part of it, and keep it for each other. Without, it asks neighbours alone.\n\n" +
			"Example: narbor fetch /nix/store/…-firefox-141.0 --to /mnt/usb\n\n" +
			"Exit code 5 means that neither a neighbour nor an upstream has something that is needed.",
		Flags: append(flags, logFlags()...),
		Action: func(c *cli.Context) error {
			return fetch(c)
		},
	}
}

// fetch runs a node of its own for as long as it takes.
func fetch(c *cli.Context) (err error) {
	wanted, err := parseWanted(c.Args().Slice())
	if err != nil {
		return exit.With(err, exit.Usage)
	}
	if !c.IsSet("log-level") {
		c.Set("log-level", "warn") // the progress line has the rest
	}
	log, err := newLogs(c, c.App.ErrWriter)
	if err != nil {
		return err
	}
	if _, err := zap.RedirectStdLogAt(log.Named("mdns"), zap.DebugLevel); err != nil {
		return err
	}
	dir, err := fetchDir(c)
	if err != nil {
		return err
	}
	scratch := filepath.Join(dir, ".incoming") // on the same disk, and cleared when the next fetch begins
	spool, err := spool.Open(spool.Config{Dir: scratch, MaxBytes: store.MaxNarSize, MinFree: -1})
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	defer spool.Close()
	cache, err := bincache.Open(dir, scratch)
	if err != nil {
		return err
	}
	ups, err := openUpstreams(c, "")
	if err != nil {
		return err
	}
	defer closeUpstreams(ups)
	node, err := fetchNode(c, spool, ups, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error {
		defer cancel()
		f := fetcher{node: node, cache: cache, upstreams: len(ups) > 0, out: c.App.Writer}
		return f.closure(ctx, wanted)
	})
	if err := g.Wait(); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return exit.With(err, exit.NotFound)
		}
		return err
	}
	came := ""
	if n := node.Status().Received[store.FromInternet]; n > 0 {
		came = ", with " + dashboard.Amount(n) + " from the internet"
	}
	fmt.Fprintf(c.App.Writer, "all there: %s%s\n", dir, came)
	return nil
}

func fetchDir(c *cli.Context) (string, error) {
	dir := c.String("to")
	if dir == "" {
		state, err := stateDir(c)
		if err != nil {
			return "", err
		}
		dir = filepath.Join(state, "cache")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func parseWanted(args []string) ([]store.HashPart, error) {
	var wanted []store.HashPart
	for _, arg := range args {
		if p, err := store.ParsePath(strings.TrimSuffix(arg, "/")); err == nil {
			wanted = append(wanted, p.HashPart())
			continue
		}
		if p, err := store.ParsePathName(arg); err == nil {
			wanted = append(wanted, p.HashPart())
			continue
		}
		hp, err := store.ParseHashPart(arg)
		if err != nil {
			return nil, fmt.Errorf("%q is neither a store path nor the %d characters that begin one's name", arg, 32)
		}
		wanted = append(wanted, hp)
	}
	if len(wanted) == 0 {
		return nil, errors.New("which store path? Give one, or the hash part of one")
	}
	return wanted, nil
}

// fetchNode makes a node that shares nothing, and has an identity for the moment.
func fetchNode(c *cli.Context, spool *spool.Spool, ups []*upstream.Cache, log logs) (*p2p.Node, error) {
	settings, err := nixconf.Read(c.Context)
	if err != nil {
		return nil, fmt.Errorf("configuration of Nix: %w", err)
	}
	g, err := groupOf(c)
	if err != nil {
		return nil, err
	}
	keys := newKeyState(c, g, log.Logger)
	if err := keys.believe(settings); err != nil {
		return nil, err
	}
	if len(keys.trusted.Names()) == 0 {
		return nil, errors.New("no key is trusted by Nix, so nothing from a neighbour could be believed; give --trusted-key")
	}
	identity, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	return p2p.New(p2p.Config{
		Host:      transport.Config{Identity: identity, Log: log.Logger, Libp2pLog: log.libp2p},
		Discovery: discoveryConfig(c), Sharing: p2p.SharingConfig{Policy: trust.Policy{Keys: keys.shared}},
		Upstreams:   p2p.UpstreamConfig{Caches: ups},
		GroupSecret: g.secret, Version: version, Trusted: keys.trusted, Spool: spool,
	})
}

type fetcher struct {
	node      *p2p.Node
	cache     *bincache.Cache
	upstreams bool
	out       io.Writer
}

func (f *fetcher) closure(ctx context.Context, wanted []store.HashPart) error {
	select {
	case <-f.node.Settled():
	case <-ctx.Done():
		return ctx.Err()
	}
	missing, err := f.missing(ctx, wanted)
	if err != nil {
		return err
	}
	var total int64
	for _, m := range missing {
		total += m.NarSize()
	}
	fmt.Fprintf(f.out, "%s to fetch, %s, from %s\n", dashboard.Plural(len(missing), "path"), dashboard.Amount(total),
		dashboard.Plural(len(f.node.Status().Neighbours), "neighbour"))
	progress := f.progress(total)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchParallel)
	for _, m := range missing {
		g.Go(func() error {
			if err := f.one(gctx, m); err != nil {
				return err
			}
			progress.add(m)
			return nil
		})
	}
	err = g.Wait()
	progress.end()
	return err
}

// missing finds what of the closure is not in the cache, references before what refers to them.
func (f *fetcher) missing(ctx context.Context, wanted []store.HashPart) ([]trust.Mapping, error) {
	all := map[store.HashPart]found{}
	for todo := wanted; len(todo) > 0; {
		if len(all) > maxClosure {
			return nil, fmt.Errorf("a closure of more than %d paths cannot be right", maxClosure)
		}
		results, err := f.lookup(ctx, todo)
		if err != nil {
			return nil, err
		}
		for i, hp := range todo {
			all[hp] = results[i]
		}
		todo = nil
		for _, r := range results {
			for _, p := range r.refs {
				if _, ok := all[p.HashPart()]; !ok {
					all[p.HashPart()] = found{} // until the next round
					todo = append(todo, p.HashPart())
				}
			}
		}
	}
	var missing []trust.Mapping
	seen := map[store.HashPart]bool{}
	var visit func(hp store.HashPart)
	visit = func(hp store.HashPart) {
		if seen[hp] {
			return
		}
		seen[hp] = true
		for _, p := range all[hp].refs {
			visit(p.HashPart())
		}
		if !all[hp].here {
			missing = append(missing, all[hp].mapping)
		}
	}
	for _, hp := range wanted {
		visit(hp)
	}
	return missing, nil
}

type found struct {
	mapping trust.Mapping
	refs    []store.Path
	here    bool
}

// lookup finds out about paths, in the cache or from neighbours.
func (f *fetcher) lookup(ctx context.Context, wanted []store.HashPart) ([]found, error) {
	results := make([]found, len(wanted))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookupParallel)
	for i, hp := range wanted {
		g.Go(func() error {
			if info, err := f.cache.Info(ctx, hp); err == nil && f.cache.Has(hp) {
				results[i] = found{refs: info.References, here: true}
				return nil
			}
			m, err := f.ask(ctx, hp)
			if err != nil {
				return err
			}
			results[i] = found{mapping: m, refs: m.Info().References}
			return nil
		})
	}
	return results, g.Wait()
}

// ask asks neighbours about a path, and then the upstreams if no neighbour has it.
func (f *fetcher) ask(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	tries := 0
	m, err := patiently(ctx, func() (trust.Mapping, error) {
		m, err := f.node.Lookup(ctx, hp)
		if tries++; tries < lookupTries && errors.Is(err, ask.ErrUnanswered) {
			return m, err
		}
		if f.upstreams && errors.Is(err, store.ErrNotFound) {
			return f.node.LookupUpstream(ctx, hp)
		}
		return m, err
	})
	if err != nil {
		err = fmt.Errorf("no neighbour or upstream has it: %w", err)
	}
	return m, err
}

// patiently repeats a lookup that has found nothing. Neighbours have peers.InfoTimeout to answer, because a build
// waits; here one late answer would end a fetch of thousands of paths.
func patiently[T any](ctx context.Context, ask func() (T, error)) (v T, err error) {
	for range lookupTries {
		if v, err = ask(); !errors.Is(err, store.ErrNotFound) {
			break
		}
		select {
		case <-time.After(lookupPause):
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
	return v, err
}

func (f *fetcher) one(ctx context.Context, m trust.Mapping) error {
	sp, err := f.node.FetchShared(ctx, m)
	if err != nil {
		return err
	}
	defer sp.Close()
	sp.Used()
	return f.cache.Add(m.Info(), io.NewSectionReader(sp, 0, sp.Size()))
}

// A progress tells how far a fetch is: with a bar on a terminal, with a line for each path elsewhere.
type progress struct {
	mu   sync.Mutex // one line at a time
	out  io.Writer
	bars *mpb.Progress
	bar  *mpb.Bar
}

func (f *fetcher) progress(total int64) *progress {
	p := &progress{out: f.out}
	if canRedraw(f.out) {
		p.bars = mpb.New(mpb.WithOutput(f.out))
		p.bar = p.bars.AddBar(total,
			mpb.PrependDecorators(decor.Counters(decor.SizeB1024(0), "% .1f / % .1f")),
			mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1024(0), "% .1f"), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	return p
}

func (p *progress) add(m trust.Mapping) {
	if p.bar != nil {
		p.bar.IncrInt64(m.NarSize())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%s  %s\n", m.Path(), dashboard.Amount(m.NarSize()))
}

func (p *progress) end() {
	if p.bar != nil {
		p.bar.Abort(false)
		p.bars.Wait()
	}
}
