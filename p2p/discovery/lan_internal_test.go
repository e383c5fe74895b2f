package discovery

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
	"narbor/store/storetest"
)

// testHostConfig returns the configuration of a host with a new identity.
func testHostConfig(t testing.TB, port uint16) transport.Config {
	return transport.Config{Identity: p2ptest.NewIdentity(t), Port: port, Conns: 512, Streams: 4096, PeerStreams: 64}
}

// newIdleLAN returns a LAN that does not run.
func newIdleLAN(t *testing.T) *LAN {
	t.Helper()
	l, err := New(Config{}, testHostConfig(t, 0), Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.host.Close() })
	return l
}

// startTestLAN runs a lan until the test ends, and fails the test if that takes long or leaves a goroutine.
func startTestLAN(t testing.TB, cfg Config) (l *LAN, stop func()) {
	t.Helper()
	return startTestLANAs(t, cfg, testHostConfig(t, 0), Hooks{})
}

// startTestLANAs is startTestLAN with a host and hooks of the caller's.
func startTestLANAs(t testing.TB, cfg Config, host transport.Config, hooks Hooks) (l *LAN, stop func()) {
	t.Helper()
	l, err := New(cfg, host, hooks)
	if err != nil {
		t.Fatal(err)
	}
	return l, p2ptest.Run(t, l.Run)
}

// waitConnected returns once a is connected to b.
func waitConnected(t testing.TB, a *LAN, b peer.ID) {
	t.Helper()
	up := make(chan struct{}, 1)
	events := &network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		if c.RemotePeer() == b {
			netmon.Hint(up)
		}
	}}
	a.host.Network().Notify(events)
	defer a.host.Network().StopNotify(events)
	if a.connected(b) {
		return
	}
	select {
	case <-up:
	case <-time.After(storetest.AtMost(time.Minute)):
		t.Fatal("not connected after a minute")
	}
}

func loopback(l *LAN) string { return fmt.Sprintf("127.0.0.1:%d", transport.ListenPort(l.host)) }

func TestNamedPeersConnectBothWaysAndAgain(t *testing.T) {
	defer p2ptest.LeavesNothing(t)()
	a, stopA := startTestLAN(t, Config{})
	b, stopB := startTestLAN(t, Config{Peers: []string{loopback(a)}})
	start := time.Now()
	waitConnected(t, b, a.host.ID())
	waitConnected(t, a, b.host.ID())
	t.Logf("connected after %v", time.Since(start))
	select {
	case <-b.Settled():
	case <-time.After(storetest.AtMost(settleLimit + 10*time.Second)):
		t.Error("not settled after the only peer was reached")
	}
	if got := b.Via(a.host.ID()); got != viaNamed {
		t.Errorf("Via(named peer) = %q, want %q", got, viaNamed)
	}
	if got := a.Via(b.host.ID()); got != viaInbound {
		t.Errorf("Via(inbound peer) = %q, want %q", got, viaInbound)
	}

	if err := a.host.Network().ClosePeer(b.host.ID()); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, b, a.host.ID())
	stopB()
	stopA()
}

// TestInboundPeerIsShownWithThePortItListensAt has b connect to a. At a, the connection has a temporary port of b's.
func TestInboundPeerIsShownWithThePortItListensAt(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	b, _ := startTestLAN(t, Config{Peers: []string{fmt.Sprintf("127.0.0.1:%d", transport.ListenPort(a.host))}})
	id := b.host.ID()
	waitConnected(t, a, id)
	waitConnected(t, b, a.host.ID())
	if got := a.AddrOf(id); got != "/ip4/127.0.0.1" {
		t.Errorf("before b has said where it listens, its address is %s, want one without port", got)
	}
	for _, told := range []string{"/ip4/127.0.0.9/tcp/7001", "/ip4/127.0.0.1/tcp/80", "/ip4/127.0.0.1/tcp/7002"} {
		a.host.Peerstore().AddAddr(id, ma.StringCast(told), time.Hour)
	}
	if got := a.AddrOf(id); got != "/ip4/127.0.0.1/tcp/7002" {
		t.Errorf("the address is %s, want the one that b has given with the IP address that it comes from", got)
	}
	if got, want := b.AddrOf(a.host.ID()), fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", transport.ListenPort(a.host)); got != want {
		t.Errorf("the address that b has dialled is shown as %s, want %s", got, want)
	}
}
