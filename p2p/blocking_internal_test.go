package p2p

import (
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/peers"
)

func testLink(name string, addrs ...string) netmon.Link {
	l := netmon.Link{InterfaceStatus: netmon.InterfaceStatus{Name: name, Used: true}}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}

func TestBlockClosesTheConnection(t *testing.T) {
	book := peers.NewLedger("", zap.NewNop())
	a, _ := startTestLAN(t, lanConfig{Denies: book.Denies})
	book.CloseAll = a.closeAll
	b, _ := startTestLAN(t, lanConfig{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID(), 20*time.Second)
	waitConnected(t, a, b.host.ID(), 20*time.Second)
	down := make(chan struct{}, 1)
	a.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) { netmon.Hint(down) }})
	if err := book.Block(b.host.ID()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-down:
	case <-time.After(20 * time.Second):
		t.Fatal("still connected 20 s after the peer was blocked")
	}
	err := b.connect(t.Context(), b.host.Peerstore().PeerInfo(a.host.ID()))
	if err == nil && a.connected(b.host.ID()) {
		t.Error("connected again while blocked")
	}
}
