package p2p

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A rogue is a machine that speaks the wire format as its test wants. Without more it is honest.
type rogue struct {
	host.Host
	info     store.Info
	nar      []byte
	claims   func(s network.Stream, r wire.Request) error  // instead of honest claims
	block    func(s network.Stream, i int, b []byte) error // instead of the true block
	manifest func(s network.Stream) error                  // instead of "not here"
	file     func(s network.Stream, f trust.File) error    // instead of "not here"
	have     wire.Bitmap                                   // it is still receiving the NAR, and has these blocks
	streams  atomic.Int64                                  // how many were opened to it
}

// start makes the rogue listen and answer.
func (g *rogue) start(t testing.TB) *rogue {
	t.Helper()
	gate := transport.NewGater(nil, nil)
	gate.SetNamed("test", []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()})
	h, err := transport.NewHost(Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t), Log: zap.NewNop()}}.host(), gate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	g.Host = h
	h.SetStreamHandler(wire.ProtocolID, func(s network.Stream) {
		g.streams.Add(1)
		defer s.Reset()
		for br := bufio.NewReader(s); ; {
			r, err := wire.ReadRequest(br)
			if err == nil {
				err = g.answer(s, r)
			}
			if err != nil {
				return
			}
		}
	})
	return g
}

func (g *rogue) answer(s network.Stream, r wire.Request) error {
	switch {
	case r.Kind == wire.AskClaims && g.claims != nil:
		return g.claims(s, r)
	case r.Kind == wire.AskClaims:
		return g.writeClaims(s, r)
	case r.Kind == wire.AskFile && g.file != nil:
		return g.file(s, r.File)
	case r.Kind == wire.AskFile:
		_, err := s.Write([]byte{0})
		return err
	case r.Kind == wire.AskHave:
		_, err := s.Write(append(binary.AppendUvarint(nil, uint64(len(g.have))), g.have...))
		return err
	case r.Kind == wire.AskManifest && g.manifest != nil:
		return g.manifest(s)
	case r.Kind == wire.AskManifest:
		_, err := s.Write([]byte{0})
		return err
	}
	from := r.Block * store.BlockSize
	b := g.nar[from : from+store.BlockLen(int64(len(g.nar)), r.Block)]
	switch {
	case g.have != nil && !g.have.Has(r.Block):
		_, err := s.Write([]byte{byte(wire.ErrLater)})
		return err
	case g.block != nil:
		return g.block(s, r.Block, b)
	case g.have != nil:
		return writeAs(s, statusRelayed, b)
	}
	return writeRaw(s, b)
}

func (g *rogue) writeClaims(s network.Stream, r wire.Request) error {
	var out []byte
	for _, hp := range r.HashParts {
		text := ""
		if !g.info.Path.IsZero() && hp == g.info.Path.HashPart() {
			text = g.info.String()
		}
		out = wire.AppendClaim(out, text, g.have != nil && text != "")
	}
	_, err := s.Write(append(out, 0))
	return err
}

// Statuses of blocks: not here, as it is, compressed, and as it is without having been verified.
const statusGone, statusRaw, statusZstd, statusRelayed byte = 0, 1, 3, 5

func writeRaw(s io.Writer, b []byte) error { return writeAs(s, statusRaw, b) }

func writeAs(s io.Writer, as byte, b []byte) error {
	_, err := s.Write(append(binary.AppendUvarint([]byte{as}, uint64(len(b))), b...))
	return err
}

func (g *rogue) addr() string { return fmt.Sprintf("127.0.0.1:%d", transport.ListenPort(g.Host)) }

// dial makes the rogue connect to a node and open a stream to it.
func (g *rogue) dial(t testing.TB, n *Node) network.Stream {
	t.Helper()
	return g.dialAt(t, n, "/ip4/127.0.0.1")
}

func (g *rogue) dialAt(t testing.TB, n *Node, ip string) network.Stream {
	t.Helper()
	g.connect(t, n, ip)
	s, err := g.NewStream(t.Context(), n.lan.Host().ID(), wire.ProtocolID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (g *rogue) connect(t testing.TB, n *Node, ip string) {
	t.Helper()
	addr, err := ma.NewMultiaddr(fmt.Sprintf("%s/tcp/%d", ip, transport.ListenPort(n.lan.Host())))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Connect(t.Context(), peer.AddrInfo{ID: n.lan.Host().ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		t.Fatal(err)
	}
}

// runNode runs a node that knows those rogues, until the test ends.
func runNode(t testing.TB, s trusttest.Signer, share []store.Source, rogues ...*rogue) (n *Node, stop func()) {
	t.Helper()
	return runNodeAs(t, s, func(cfg *Config) { cfg.Sharing.Sources = share }, rogues...)
}

func runNodeAs(t testing.TB, s trusttest.Signer, edit func(*Config), rogues ...*rogue) (n *Node, stop func()) {
	t.Helper()
	n, closeSpool := newNodeAs(t, s, edit, rogues...)
	stop = n.runUntil(t, closeSpool)
	<-n.Settled()                      // it answers by then
	awaitNeighbours(t, n, len(rogues)) // a connection counts once both sides have said what they speak
	return n, stop
}

// newNodeAs returns a node that listens and does not run yet, and a function that closes the spool that is made for it.
func newNodeAs(t testing.TB, s trusttest.Signer, edit func(*Config), rogues ...*rogue) (n *Node, closeSpool func() error) {
	t.Helper()
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t)}, Trusted: s.Keys,
		Sharing: SharingConfig{Policy: trust.Policy{Keys: s.Keys}},
		Spool:   spool}
	cfg.Discovery.DenyInterfaces = p2ptest.AllInterfaces
	for _, g := range rogues {
		cfg.Discovery.Peers = append(cfg.Discovery.Peers, g.addr())
	}
	edit(&cfg)
	n, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n, spool.Close
}

// runUntil runs a node until stop is called, or the test ends. Then it calls closeSpool.
func (n *Node) runUntil(t testing.TB, closeSpool func() error) (stop func()) {
	t.Helper()
	return p2ptest.Run(t, func(ctx context.Context) error {
		defer closeSpool()
		return n.Run(ctx)
	})
}

// fetchAll looks up and fetches, and compares every byte.
func fetchAll(t testing.TB, n *Node, m trust.Mapping, want []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atMost(time.Minute))
	defer cancel()
	sp, err := n.FetchShared(ctx, m)
	if err != nil {
		t.Fatalf("Fetch(%s) = %v", m.Path(), err)
	}
	defer sp.Close()
	got, err := io.ReadAll(io.NewSectionReader(sp, 0, sp.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Fetch(%s) gave %d bytes, %v; want the %d of the NAR", m.Path(), len(got), err, len(want))
	}
}

// strikesToBan is the number of strikes that ban a peer.
const strikesToBan = 3

func strikesOf(n *Node, g *rogue) int64 { return n.ledger.TallyOf(g.ID()).Strikes.Load() }
