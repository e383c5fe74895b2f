package p2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/meet"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

// askPeers opens a stream to a node and returns its answer about its neighbours. A node that refuses may reset the
// stream while its protocol is negotiated.
func (g *rogue) askPeers(t *testing.T, n *Node) ([]byte, error) {
	t.Helper()
	s, err := g.NewStream(t.Context(), n.lan.Host().ID(), meet.PeersProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	s.CloseWrite()
	return io.ReadAll(s)
}

func TestNeighboursAreToldOfSeldom(t *testing.T) {
	n, _ := runNode(t, trusttest.NewSigner(t), nil)
	g := (&rogue{}).start(t)
	g.dial(t, n)
	refused := 0
	questions := 4 * n.ledger.TallyOf(g.ID()).Tellings.Burst()
	for range questions {
		switch b, err := g.askPeers(t, n); {
		case errors.Is(err, &network.StreamError{ErrorCode: network.StreamResourceLimitExceeded, Remote: true}):
			refused++
		case err != nil || !bytes.Equal(b, []byte{0, 0}):
			t.Fatalf("told %x, %v, want no name and no peers", b, err)
		}
	}
	if refused == 0 {
		t.Errorf("%d questions were all answered", questions)
	}
	if strikesOf(n, g) != 0 {
		t.Error("asking too often was held against it")
	}
}

// A machine that restarts is dialled by its neighbours while it starts, once it listens.
func TestPeerThatConnectsBeforeRunIsANeighbour(t *testing.T) {
	n, closeSpool := newNodeAs(t, trusttest.NewSigner(t), func(*Config) {})
	g := (&rogue{}).start(t)
	g.connect(t, n, "/ip4/127.0.0.1")
	eventually(t, "told by identify", func() bool {
		speaks, err := n.lan.Host().Peerstore().SupportsProtocols(g.ID(), wire.ProtocolID)
		return err == nil && len(speaks) > 0
	})
	n.runUntil(t, closeSpool)
	awaitNeighbours(t, n, 1)
}

func TestOutsidersAreToldOfNoPeers(t *testing.T) {
	n := newGrouped(t, trusttest.NewSigner(t), secretA, new(store.Mem))
	g := (&rogue{}).start(t)
	addr := ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", transport.ListenPort(n.lan.Host())))
	if err := g.Connect(t.Context(), peer.AddrInfo{ID: n.lan.Host().ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		t.Fatal(err)
	}
	if b, err := g.askPeers(t, n.Node); !errors.Is(err, &network.StreamError{ErrorCode: peers.ErrOutsider, Remote: true}) || len(b) > 0 {
		t.Errorf("an outsider is told %x, %v, want a reset with %#x", b, err, peers.ErrOutsider)
	}
}

// askDialBack asks a node to dial the rogue.
func (g *rogue) askDialBack(t *testing.T, n *Node, port uint16) ([]byte, error) {
	t.Helper()
	s, err := g.NewStream(t.Context(), n.lan.Host().ID(), meet.DialBackProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := s.Write(binary.AppendUvarint(nil, uint64(port))); err != nil {
		t.Fatal(err)
	}
	s.CloseWrite()
	return io.ReadAll(s)
}

func TestDialBackToALowPortIsAViolation(t *testing.T) {
	n, _ := runNode(t, trusttest.NewSigner(t), nil)
	g := (&rogue{}).start(t)
	g.dial(t, n)
	if b, err := g.askDialBack(t, n, 6273); err != nil || !bytes.Equal(b, []byte{0}) || strikesOf(n, g) != 0 {
		t.Errorf("a dial-back to loopback = %x, %v, and %d strikes, want a zero and none", b, err, strikesOf(n, g))
	}
	if b, err := g.askDialBack(t, n, 22); !errors.Is(err, &network.StreamError{ErrorCode: network.StreamProtocolViolation, Remote: true}) ||
		strikesOf(n, g) != 1 {
		t.Errorf("a dial-back to port 22 = %x, %v, and %d strikes, want a reset and 1", b, err, strikesOf(n, g))
	}
}

func TestDialBackIsForMembersOnly(t *testing.T) {
	n := newGrouped(t, trusttest.NewSigner(t), secretA, new(store.Mem))
	g := (&rogue{}).start(t)
	addr := ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", transport.ListenPort(n.lan.Host())))
	if err := g.Connect(t.Context(), peer.AddrInfo{ID: n.lan.Host().ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		t.Fatal(err)
	}
	if b, err := g.askDialBack(t, n.Node, 6273); !errors.Is(err, &network.StreamError{ErrorCode: peers.ErrOutsider, Remote: true}) ||
		len(b) > 0 {
		t.Errorf("an outsider is told %x, %v, want a reset with %#x", b, err, peers.ErrOutsider)
	}
}

// tellsName makes the rogue answer each question about neighbours with a name, and without addresses. The first answer
// is counted.
func (g *rogue) tellsName(name string, answered *atomic.Int32) *rogue {
	var first sync.Once
	g.SetStreamHandler(meet.PeersProtocol, func(s network.Stream) {
		defer first.Do(func() { answered.Add(1) })
		s.Write(append(append(binary.AppendUvarint(nil, uint64(len(name))), name...), 0))
		s.Close()
	})
	return g
}

// Neighbours have the name that they tell, but those that might harm a terminal or a page.
func TestNeighboursTellNames(t *testing.T) {
	want := map[string]string{}
	var all []*rogue
	var names []string
	var answered atomic.Int32
	add := func(told, kept string) {
		g := (&rogue{}).start(t).tellsName(told, &answered)
		want[g.ID().String()] = kept
		all, names = append(all, g), append(names, told)
	}
	add("laptop", "laptop")
	long := strings.Repeat("n", peers.MaxName)
	add(long, long)
	for _, name := range []string{"", "\x1b[2J\r\n\x00", "a\u202eb", "<script>alert(1)</script>", strings.Repeat("n", 1<<20)} {
		add(name, "")
	}
	n, _ := runNodeAs(t, trusttest.NewSigner(t), func(cfg *Config) { cfg.Name = "desk" }, all...)
	eventually(t, "every neighbour has been asked", func() bool {
		st := n.Status()
		named := 0
		for _, nb := range st.Neighbours {
			if nb.Name != "" {
				named++
			}
		}
		return len(st.Neighbours) == len(all) && int(answered.Load()) == len(all) && named >= 2 && strikesOf(n, all[len(all)-1]) > 0
	})
	for _, nb := range n.Status().Neighbours {
		if nb.Name != want[nb.ID] {
			t.Errorf("a neighbour has the name %q, want %q", nb.Name, want[nb.ID])
		}
	}
	if b, err := all[0].askPeers(t, n); err != nil || !bytes.HasPrefix(b, []byte("\x04desk")) {
		t.Errorf("told %q, %v, want the name first", b, err)
	}
	for i, g := range all[:len(all)-1] {
		if strikesOf(n, g) > 0 {
			t.Errorf("the name %q is held against it", names[i])
		}
	}
}
