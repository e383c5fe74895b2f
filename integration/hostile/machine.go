package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/integration/barehost"
	"narbor/store"
	"narbor/store/nixstore"
)

const (
	service    = "_narbor._tcp"
	addrPrefix = "dnsaddr="
)

// A machine is the state of this program as a peer on the LAN.
type machine struct {
	options
	host host.Host
	nix  library
	turn atomic.Int64 // counter that selects the next fault

	began time.Time

	mu     sync.Mutex // guards what follows
	stderr io.Writer
	open   map[store.HashPart]archive
}

// A library is the store paths that a machine claims.
type library interface {
	store.Source
	AllValidPaths(context.Context) ([]store.Path, error)
}

// An archive is a NAR of this machine's store with its true path info.
type archive struct {
	info store.Info
	store.NAR
}

func newMachine(o options, nix *nixstore.Store, stderr io.Writer) (*machine, error) {
	h, err := newHost(fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", o.port))
	if err != nil {
		return nil, err
	}
	return machineAt(h, o, nix, stderr), nil
}

func machineAt(h host.Host, o options, lib library, stderr io.Writer) *machine {
	return &machine{options: o, host: h, nix: lib, began: time.Now(), stderr: stderr, open: map[store.HashPart]archive{}}
}

// newHost makes a libp2p host with a new identity and no limits. Without addresses it does not listen.
func newHost(listen ...string) (host.Host, error) {
	return barehost.New(barehost.Config{UserAgent: "hostile"}, listen...)
}

// offence notes a fault that was committed.
func (m *machine) offence(f fault, format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(m.stderr, "offence %s: %s\n", f.name, fmt.Sprintf(format, args...))
}

// run announces this peer, answers, and attacks as the faults say.
func (m *machine) run(ctx context.Context) error {
	m.mu.Lock()
	fmt.Fprintln(m.stderr, "identity", m.host.ID())
	m.mu.Unlock()
	for _, f := range m.faults {
		if f.connect != nil {
			f.connect(m)
		}
	}
	m.host.SetStreamHandler(protocolID, func(s network.Stream) {
		m.serve(ctx, s)
		s.Reset()
	})
	var running sync.WaitGroup
	for _, f := range m.faults {
		if f.attack != nil {
			running.Go(func() {
				if err := f.attack(ctx, m, f); err != nil && ctx.Err() == nil {
					m.offence(f, "ended: %v", err)
				}
			})
		}
	}
	if !m.quiet {
		running.Go(func() { m.announce(ctx) })
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

// announce makes this peer known by multicast DNS until ctx ends.
func (m *machine) announce(ctx context.Context) {
	ips := ownAddrs()
	var texts []string
	for _, ip := range ips {
		texts = append(texts, fmt.Sprintf("%s/ip4/%s/tcp/%d/p2p/%s", addrPrefix, ip, m.port, m.host.ID()))
	}
	s, err := zeroconf.RegisterProxy(rand.Text(), service, "local", m.port, rand.Text(), ips, texts, nil)
	if err != nil {
		fmt.Fprintln(m.stderr, "mdns:", err)
		return
	}
	<-ctx.Done()
	s.Shutdown()
}

// ownAddrs returns this machine's IPv4 addresses.
func ownAddrs() (ips []string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			ips = append(ips, n.IP.String())
		}
	}
	return ips
}

// neighbours calls found once for each announced peer until ctx ends. With a target, it calls found for the target
// only.
func (m *machine) neighbours(ctx context.Context, found func(peer.AddrInfo)) error {
	entries := make(chan *zeroconf.ServiceEntry)
	failed := make(chan error, 1)
	go func() { failed <- zeroconf.Browse(ctx, service, "local", entries) }()
	seen := map[peer.ID]bool{m.host.ID(): true}
	for e := range entries {
		for _, text := range e.Text {
			addr, err := ma.NewMultiaddr(strings.TrimPrefix(text, addrPrefix))
			if err != nil {
				continue
			}
			info, err := peer.AddrInfoFromP2pAddr(addr)
			if err != nil || seen[info.ID] || m.target != "" && !strings.Contains(text, "/"+m.target+"/") {
				continue
			}
			seen[info.ID] = true
			found(*info)
		}
	}
	return <-failed
}

// serve answers the requests on a stream until one fails or the peer closes the stream.
func (m *machine) serve(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	if f, ok := m.next(func(f fault) bool { return f.stream != nil }); ok && f.stream(m, f, s) {
		return
	}
	for br := bufio.NewReader(s); ; {
		r, err := readRequest(br)
		if err != nil || m.answer(ctx, s, r) != nil {
			return
		}
	}
}

// next returns the next fault, in rotation, of those for which fits is true.
func (m *machine) next(fits func(fault) bool) (fault, bool) {
	var fit []fault
	for _, f := range m.faults {
		if fits(f) {
			fit = append(fit, f)
		}
	}
	if len(fit) == 0 {
		return fault{}, false
	}
	return fit[int(m.turn.Add(1))%len(fit)], true
}

func (m *machine) answer(ctx context.Context, s network.Stream, r request) error {
	if f, ok := m.next(func(f fault) bool { return f.proxy != nil }); ok {
		return m.serveAsProxy(ctx, s, f, r)
	}
	switch r.kind {
	case kindClaims:
		return m.answerClaims(ctx, s, r)
	case kindManifest:
		return m.answerManifest(ctx, s, r)
	}
	a, err := m.archive(ctx, r.parts[0])
	if err != nil || a.info.NarHash != r.nar || r.kind != kindBlock {
		_, err := s.Write([]byte{statusGone})
		return err
	}
	b, err := a.read(r.block)
	if err != nil {
		return err
	}
	if f, ok := m.next(func(f fault) bool { return f.block != nil }); ok {
		m.offence(f, "block %d of %s", r.block, a.info.Path)
		return f.block(ctx, s, a, r.block, b)
	}
	_, err = s.Write(blockAnswer(statusRaw, b))
	return err
}

func (m *machine) answerClaims(ctx context.Context, s network.Stream, r request) error {
	for _, hp := range r.parts {
		info, err := m.nix.Info(ctx, hp)
		info.CA, info.Deriver = "", store.Path{}
		out := claimAnswer("")
		if err == nil {
			out = claimAnswer(info.String())
		}
		if f, ok := m.next(func(f fault) bool { return f.claim != nil }); ok && (err == nil || f.always) {
			m.offence(f, "claim about %s", hp)
			if err := f.claim(ctx, s, m, hp, info); err != nil {
				return err
			}
			continue
		}
		if _, err := s.Write(out); err != nil {
			return err
		}
	}
	_, err := s.Write([]byte{0}) // nothing but what was asked for
	return err
}

func (m *machine) answerManifest(ctx context.Context, s network.Stream, r request) error {
	a, err := m.archive(ctx, r.parts[0])
	if err != nil || a.info.NarHash != r.nar {
		_, err := s.Write([]byte{0})
		return err
	}
	digests, err := a.digests()
	if err != nil {
		return err
	}
	if f, ok := m.next(func(f fault) bool { return f.manifest != nil }); ok {
		m.offence(f, "manifest of %s", a.info.Path)
		return f.manifest(ctx, s, a, digests)
	}
	_, err = s.Write(manifestAnswer(digests))
	return err
}

// archive opens a NAR of this machine's store, which stays open.
func (m *machine) archive(ctx context.Context, hp store.HashPart) (archive, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.open[hp]; ok {
		return a, nil
	}
	info, err := m.nix.Info(ctx, hp)
	if err != nil {
		return archive{}, err
	}
	nar, err := m.nix.NAR(context.WithoutCancel(ctx), info)
	if err != nil {
		return archive{}, err
	}
	m.open[hp] = archive{info, nar}
	return m.open[hp], nil
}

// sleep waits, and says whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
