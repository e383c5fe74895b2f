package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/doctor"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/p2p/netmon"
	"narbor/p2p/transport"
	"narbor/store/nixconf"
	"narbor/store/spool"
	"narbor/trust"
)

// retryTime is how long narbor answers 404 to everything before it is started anew, if it could not start.
const retryTime = 20 * time.Second

// drainTime is how long transfers to Nix may go on once narbor is told to stop. Nix resumes transfers that are cut
// then.
const drainTime = 10 * time.Second

// lastAnswerTime bounds the time for the answers 404 to requests that still wait for a NAR after [drainTime].
const lastAnswerTime = time.Second

// redirectStep is the interval at which a stop checks whether a redirect is under way.
const redirectStep = 10 * time.Millisecond

// aheadBudget is how many bytes are fetched before Nix asks for them: 4 s of a gigabit link, while Nix unpacks. What
// the spool holds for other reasons must not suffer, so it is at most a quarter of that.
const aheadBudget = 512 << 20

// softMemory is the memory limit of the Go runtime, which collects garbage more often near it. Without a limit the heap
// grows to twice the live memory, which is a lot under attack. GOMEMLIMIT overrides it.
const softMemory = 112 << 20

// runCommand serves Nix on the sockets that systemd handed over, if there are any.
func runCommand(inherited []net.Listener) *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "run the service: share with neighbours, and serve Nix from them",
		Description: "It needs no configuration. With Nix on this machine it shares what the upstreams that Nix trusts have\n" +
			"signed; without, the paths in its own cache directory, which `narbor fetch` fills.\n\n" +
			"Every flag can also be set in the environment, as NARBOR_ and its name in capitals, or in the file of\n" +
			"--config. A flag has precedence, then the environment.\n\n" +
			"Example: narbor run --peer nas.example.org --upload-rate 10MiB",
		Flags: runFlags(),
		Action: func(c *cli.Context) error {
			line := c.LocalFlagNames()
			places, err := applyConfig(c)
			if err != nil {
				return err
			}
			if err := checkValues(c, places); err != nil {
				return err
			}
			if os.Getenv("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(softMemory)
			}
			s, err := newService(c, inherited)
			if err != nil {
				return err
			}
			s.start.settings = settingsOf(c, line)
			return s.run(c.Context)
		},
	}
}

// A service is `narbor run`. It is owned by the goroutine that calls run.
type service struct {
	parts
	state    state
	identity crypto.PrivKey
	control  net.Listener
}

// newService sets up everything and starts nothing but listeners, so that Nix may connect already.
func newService(c *cli.Context, inherited []net.Listener) (s *service, err error) {
	s = &service{parts: parts{start: start{at: time.Now()}, listeners: inherited}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.log, err = newLogs(c, c.App.ErrWriter); err != nil {
		return s, err
	}
	s.start.misspelt = warnOfMisspelt(c, s.log.Logger)
	g, err := groupOf(c)
	if err != nil {
		return s, err
	}
	s.keys = newKeyState(c, g, s.log.Logger)
	// zeroconf writes to the standard logger; its messages help only to debug.
	if _, err := zap.RedirectStdLogAt(s.log.Named("mdns"), zap.DebugLevel); err != nil {
		return s, err
	}
	dir, err := stateDir(c)
	if err != nil {
		return s, err
	}
	if s.state, err = openState(dir, s.log.Logger); err != nil {
		return s, fmt.Errorf("state directory: %w; give another by --state-dir", err)
	}
	if len(inherited) == 0 {
		if s.listeners, err = listen(c); err != nil {
			return s, err
		}
	}
	settings, confErr := nixconf.Read(c.Context)
	if err := s.keys.believe(settings); err != nil {
		return s, err
	}
	s.keys.warnOfUnread()
	if confErr != nil {
		s.keys.fail(confErr)
		s.log.Error("Nix's configuration cannot be read to its end, and Nix refuses it, too", zap.Error(confErr))
	}
	if s.spool, err = openSpool(c, s.state.dir); err != nil {
		return s, err
	}
	if s.shares, err = openShares(c, s.state, s.keys, s.log.Logger); err != nil {
		return s, err
	}
	return s, s.connect(c)
}

// connect makes the parts that face neighbours and Nix.
func (s *service) connect(c *cli.Context) (err error) {
	if s.identity, err = transport.LoadIdentity(s.state.file(identityName)); err != nil {
		return err
	}
	upload, err := uploadRate(c)
	if err != nil {
		return err
	}
	if s.accounts, err = stats.Open(s.state.file("account.json")); err != nil {
		s.log.Warn("accounts begin anew", zap.Error(err))
	}
	paused, err := s.pause.open(s.state.file("pause.json"), !s.shares.off)
	if err != nil {
		s.log.Warn("pause of sharing", zap.Error(err))
	}
	find := discoveryConfig(c)
	find.PeersFile, find.MemoryFile = s.state.file("peers.json"), s.state.file("networks.json")
	fetches := spool.NewFetches(s.spool.Get)
	cfg := p2p.Config{
		Host:      transport.Config{Identity: s.identity, Port: uint16(c.Uint("port")), Log: s.log.Named("p2p"), Libp2pLog: s.log.libp2p},
		Discovery: find,
		Sharing: p2p.SharingConfig{Sources: s.shares.sources, Off: s.shares.off || paused, UploadRate: upload,
			Policy:    trust.Policy{Keys: s.keys.shared, Public: s.keys.public, Circle: s.keys.circle, Fetched: s.keys.fetched},
			Manifests: s.state.file("manifests"), Keep: s.shares.offered.Keep, Called: s.shares.called},
		GroupSecret: s.keys.group.secret, Version: version, Name: c.String("name"), Trusted: s.keys.trusted,
		Spool: s.spool, Fetches: fetches, Denied: s.state.file("denied.json"),
		Observer: s.accounts, Rebuilds: s.shares.rebuilds,
	}
	if err := s.cooperate(c, &cfg); err != nil {
		return err
	}
	if s.control, err = listenControl(c, s.state); err != nil {
		return err
	}
	if s.node, err = p2p.New(cfg); err != nil {
		return err
	}
	s.pause.resume(s.share)
	var sources []narserve.Source
	for i, src := range s.shares.sources {
		own := narserve.Local(src, s.keys.public, s.spool)
		if s.shares.isGit(i) {
			own = narserve.LocalSources(src, s.keys.public, s.spool)
		}
		sources = append(sources, own)
	}
	cfgHTTP := narserve.Config{Sources: append(sources, s.node), Keys: s.keys.trusted, Public: s.keys.public,
		Settled: s.node.Settled(), Stalled: func() time.Duration { return s.keys.settings().StalledTimeout },
		Hosts: append(hostsOf(c.StringSlice("listen")), c.StringSlice("allow-host")...),
		Ahead: min(aheadBudget, s.spool.Stats().MaxBytes/4), Fetches: fetches, Fits: s.spool.Fits,
		Accounts: s.accounts, File: s.file, Log: s.log.Named("http")}
	if len(s.upstreams) > 0 {
		cfgHTTP.Upstream = s.node.LookupUpstream
	}
	if !c.Bool("no-page") {
		cfgHTTP.Page = dashboard.New(s.facts, s.accounts)
	}
	s.server = narserve.New(cfgHTTP)
	return s.announce(c)
}

// run serves until ctx ends, then lets transfers finish for a while.
func (s *service) run(ctx context.Context) error {
	defer s.close()
	// Transfers to Nix may need neighbours while they drain, so neighbours outlive ctx.
	alive, die := context.WithCancel(context.WithoutCancel(ctx))
	defer die()
	g, alive := errgroup.WithContext(alive)
	g.Go(func() error { return s.node.Run(alive) })
	serving, endFetches := context.WithCancel(alive)
	defer endFetches()
	g.Go(func() error { return s.server.Run(serving) })
	g.Go(func() error { return s.shares.damage.Run(alive) })
	for _, repository := range s.shares.gits {
		g.Go(func() error { return repository.Run(alive) })
	}
	g.Go(func() error {
		return s.shares.offered.Run(alive, func(err error) { s.log.Warn("offered signatures are not saved", zap.Error(err)) })
	})
	g.Go(func() error { return s.state.keep(alive, s.identity, s.spool, s.log.Logger) })
	g.Go(func() error { return nixconf.Watch(alive, s.keys.changed) })

	nix := s.server.HTTPServer()
	ctl := control.NewServer(s.controlHandler(), s.log.Logger)
	for _, l := range s.listeners {
		g.Go(func() error { return serveHTTP(nix, l) })
	}
	g.Go(func() error { return serveHTTP(ctl, s.control) })
	notify(s.log.Logger, daemon.SdNotifyReady)
	g.Go(func() error { return watchdog(alive, s.listeners, s.log.Logger) })

	select {
	case <-ctx.Done():
		notify(s.log.Logger, daemon.SdNotifyStopping)
		s.log.Info("stopping", zap.Duration("atMost", drainTime))
	case <-alive.Done(): // a part has failed
	}
	stopServing(nix, s.server.Redirecting, stopTimes{drainTime, lastAnswerTime}, endFetches)
	ctl.Close()
	die()
	err := g.Wait()
	s.saveLast()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// saveLast saves what neighbours got and offered while the rest ended.
func (s *parts) saveLast() {
	if err := s.accounts.Save(); err != nil {
		s.log.Warn("accounts are not saved", zap.Error(err))
	}
	if err := s.shares.offered.Save(); err != nil {
		s.log.Warn("offered signatures are not saved", zap.Error(err))
	}
}

// stopTimes bound a stop: until fetches are ended, and from then on until connections that are not idle are closed.
type stopTimes struct{ drain, last time.Duration }

// stopServing gives requests the time drain to finish. Then it calls endFetches, which answers the requests that wait for a
// NAR, and after the time last closes the connections that are not idle (twice last if there are redirects). A request
// without an answer would count as a failed download in Nix.
func stopServing(nix *http.Server, redirecting func() bool, limit stopTimes, endFetches func()) {
	drained := time.Now().Add(limit.drain)
	until := func(t time.Time) bool { // no redirect is under way: its request would find a closed port
		for redirecting() && time.Now().Before(t) {
			time.Sleep(redirectStep)
		}
		return !redirecting()
	}
	shutdown := func(t time.Time) error {
		ctx, cancel := context.WithDeadline(context.Background(), t)
		defer cancel()
		return nix.Shutdown(ctx)
	}
	if until(drained) && shutdown(drained) == nil {
		return
	}
	endFetches()
	until(time.Now().Add(limit.last))
	if shutdown(time.Now().Add(limit.last)) != nil {
		nix.Close()
	}
}

func serveHTTP(srv *http.Server, l net.Listener) error {
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// close releases what newService has opened. The node closes itself at the end of its Run.
func (s *service) close() {
	if s.control != nil {
		s.control.Close()
	}
	s.shares.close()
	closeUpstreams(s.upstreams)
	if s.spool != nil {
		s.spool.Close()
	}
	if err := s.state.close(); err != nil {
		s.log.Warn("leftovers", zap.Error(err))
	}
}

func listenControl(c *cli.Context, st state) (net.Listener, error) {
	paths, err := socketPaths(c)
	if err != nil {
		return nil, err
	}
	l, err := control.Listen(paths[0])
	if err != nil && st.dir != st.real {
		l, err = control.Listen(st.file(control.SocketName)) // its directory is read-only
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

func listen(c *cli.Context) (ls []net.Listener, err error) {
	for _, addr := range c.StringSlice("listen") {
		l, err := net.Listen("tcp", addr)
		if err != nil && len(ls) > 0 && !c.IsSet("listen") {
			continue // a machine without IPv6
		}
		if err != nil {
			for _, l := range ls {
				l.Close()
			}
			return nil, fmt.Errorf("%w; is another narbor running? Choose another address by --listen", err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// answerNotFound serves an empty cache for retryTime, and then returns cause, so that systemd starts narbor anew. The
// sockets belong to systemd and stay open: if no process accepted on them, Nix would wait for minutes, and then fail.
func answerNotFound(ctx context.Context, stderr io.Writer, ls []net.Listener, cause error) error {
	fmt.Fprintf(stderr, "narbor: %v\nnarbor: Nix gets 404 for everything until that is mended; trying again in %s\n", cause, retryTime)
	ctx, cancel := context.WithTimeout(ctx, retryTime)
	defer cancel()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+doctor.NotWorking+
		strings.ReplaceAll(cause.Error(), "\n", "; ")); err != nil {
		cause = errors.Join(cause, err)
	}
	srv := narserve.New(narserve.Config{}).HTTPServer()
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range ls {
		g.Go(func() error { return serveHTTP(srv, l) })
	}
	<-ctx.Done()
	srv.Close()
	return errors.Join(cause, g.Wait())
}

// hostsOf returns the host names in listen addresses, by which Nix may ask.
func hostsOf(addrs []string) []string {
	var hosts []string
	for _, addr := range addrs {
		if host, _, err := net.SplitHostPort(addr); err == nil && host != "" && net.ParseIP(host) == nil {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// cooperate opens the upstreams, and sets the limits of downloads for neighbours.
func (s *service) cooperate(c *cli.Context, cfg *p2p.Config) (err error) {
	if s.upstreams, err = openUpstreams(c, s.state.file("upstreams")); err != nil {
		return err
	}
	cfg.Upstreams.Caches, cfg.Upstreams.PowerSupplies = s.upstreams, netmon.PowerSupplies
	cfg.Upstreams.Budget, err = size(c, "upstream-budget")
	cfg.Upstreams.NoCooperate = c.Bool("no-cooperate") || cfg.Upstreams.Budget == 0
	return err
}
