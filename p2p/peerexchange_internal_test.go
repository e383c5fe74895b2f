package p2p

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
	"narbor/store"
)

func FuzzReadPeers(f *testing.F) {
	id, err := peer.IDFromPrivateKey(newTestIdentity(f))
	if err != nil {
		f.Fatal(err)
	}
	one := ma.StringCast("/ip4/10.0.0.1/tcp/6273/p2p/" + id.String())
	f.Add([]byte{0})
	f.Add(appendPeers(nil, []ma.Multiaddr{one, ma.StringCast("/ip6/fd00::1/tcp/1/p2p/" + id.String())}))
	f.Add([]byte{1, 4, 255, 255, 255, 255})
	f.Add([]byte{17})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		addrs, err := readPeers(bufio.NewReaderSize(r, 16))
		if err != nil {
			return
		}
		again := appendPeers(nil, addrs)
		if len(addrs) > maxToldPeers || !bytes.HasPrefix(b, again) {
			t.Errorf("readPeers(%x) = %v, which is written as %x", b, addrs, again)
		}
	})
}

func TestWhatIsToldIsBounded(t *testing.T) {
	for _, b := range [][]byte{{maxToldPeers + 1}, {1, maxPeerAddr + 1, 1}, {1, 0}, {1, 2, 255, 255}} {
		if _, err := readPeers(bufio.NewReader(bytes.NewReader(b))); !errors.Is(err, wire.ErrWire) {
			t.Errorf("readPeers(%x) = %v, want errWire", b, err)
		}
	}
}

// askPeers opens a stream to a node and returns its answer about its neighbours. A node that refuses may reset the stream
// while its protocol is negotiated.
func (g *rogue) askPeers(t *testing.T, n *Node) ([]byte, error) {
	t.Helper()
	s, err := g.NewStream(t.Context(), n.lan.Host().ID(), peersProtocol)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	s.CloseWrite()
	return io.ReadAll(s)
}

func TestNeighboursAreToldOfSeldom(t *testing.T) {
	n, _ := runNode(t, newSigner(t), nil)
	g := (&rogue{}).start(t)
	g.dial(t, n)
	refused := 0
	questions := 4 * n.ledger.TallyOf(g.ID()).Tellings.Burst()
	for range questions {
		switch b, err := g.askPeers(t, n); {
		case errors.Is(err, &network.StreamError{ErrorCode: network.StreamResourceLimitExceeded, Remote: true}):
			refused++
		case err != nil || !bytes.Equal(b, []byte{0}):
			t.Fatalf("told %x, %v, want no peers", b, err)
		}
	}
	if refused == 0 {
		t.Errorf("%d questions were all answered", questions)
	}
	if strikesOf(n, g) != 0 {
		t.Error("asking too often was held against it")
	}
}

func TestOutsidersAreToldOfNoPeers(t *testing.T) {
	n := newGrouped(t, newSigner(t), secretA, store.NewMem())
	g := (&rogue{}).start(t)
	addr := ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", transport.ListenPort(n.lan.Host())))
	if err := g.Connect(t.Context(), peer.AddrInfo{ID: n.lan.Host().ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		t.Fatal(err)
	}
	if b, err := g.askPeers(t, n.Node); !errors.Is(err, &network.StreamError{ErrorCode: peers.ErrOutsider, Remote: true}) || len(b) > 0 {
		t.Errorf("an outsider is told %x, %v, want a reset with %#x", b, err, peers.ErrOutsider)
	}
}
