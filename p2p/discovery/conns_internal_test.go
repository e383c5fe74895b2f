package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/store/storetest"
)

func TestHearsayIsFiltered(t *testing.T) {
	l := newIdleLAN(t)
	l.Gate.SetLinks([]netmon.Link{p2ptest.Link("eth0", "10.1.0.5/24", "fd01::5/64")})
	id := "/p2p/" + p2ptest.NewPeer(t).String()
	for text, want := range map[string]bool{
		"/ip4/10.1.0.6/tcp/6273" + id:                        true,
		"/ip6/fd01::6/tcp/6273" + id:                         true,
		"/ip4/10.1.0.6/tcp/1024" + id:                        true,
		"/ip4/10.1.0.6/tcp/1023" + id:                        false,
		"/ip4/10.1.0.5/tcp/6273" + id:                        false, // this machine
		"/ip4/10.1.1.6/tcp/6273" + id:                        false,
		"/ip4/8.8.8.8/tcp/6273" + id:                         false,
		"/ip4/127.0.0.1/tcp/6273" + id:                       false,
		"/ip4/10.1.0.6/tcp/6273":                             false,
		"/ip4/10.1.0.6/udp/6273" + id:                        false,
		"/dns4/nas/tcp/6273" + id:                            false,
		"/ip4/10.1.0.6/tcp/6273/p2p/" + l.host.ID().String(): false,
	} {
		a, ok := l.Dialer.hearsay(ma.StringCast(text), ViaExchange, time.Now())
		if ok != want || ok && (len(a.addrs) != 1 || a.via != ViaExchange) {
			t.Errorf("hearsay(%s) = %+v, %v, want %v", text, a, ok, want)
		}
	}
}

// An announced machine keeps its addresses and its due time, whatever others say of it.
func TestHearsayDisplacesNothing(t *testing.T) {
	k := newTestCandidates(t)
	now := time.Now()
	a := announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/6273")
	k.announce(a, now)
	k.finished(a.id, errors.New("no answer"), true, now) // it was never begun
	k.dialing = 0
	due := k.peers[a.id].due
	for i := range 2 * netmon.MaxAddrs {
		m := ma.StringCast(fmt.Sprintf("/ip4/10.0.1.%d/tcp/6273", i))
		k.announce(announcement{id: a.id, addrs: []ma.Multiaddr{m}, expiry: now, via: ViaExchange}, now)
	}
	c := k.peers[a.id]
	if !c.addrs[0].Equal(a.addrs[0]) || len(c.addrs) != netmon.MaxAddrs || c.due != due || c.failures != 1 || !c.expiry.Equal(a.expiry) ||
		c.via != viaMDNS {
		t.Errorf("after hearsay: %+v", c)
	}
}

func TestErrorsOfDialsHaveNoStandIns(t *testing.T) {
	l, _ := startTestLAN(t, Config{})
	lo, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	linkLocal := p2ptest.Must(l.Gate.StandIn(ma.StringCast("/ip6zone/" + lo.Name + "/ip6/fe80::1:2:3:4/tcp/6273")))
	vsock := p2ptest.Must(netmon.TCPAddr(l.Gate.VsockAddr(2), 6273))
	for _, m := range []ma.Multiaddr{linkLocal, vsock} {
		ip, _ := netmon.IPOf(m)
		err := l.connectAt(context.Background(), peer.AddrInfo{ID: p2ptest.NewPeer(t), Addrs: []ma.Multiaddr{m}})
		if err == nil {
			t.Fatalf("%s was reached", m)
		}
		if strings.Contains(err.Error(), ip.String()) {
			t.Errorf("a dial ends with %q, which has a stand-in", err)
		}
	}
}

// A peer that is refused from now on loses its connection, and gets no new one.
func TestDeniedPeerIsDisconnected(t *testing.T) {
	var denied atomic.Bool
	a, _ := startTestLANAs(t, Config{}, testHostConfig(t, 0), Hooks{Denies: func(peer.ID) bool { return denied.Load() }})
	b, _ := startTestLAN(t, Config{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID())
	waitConnected(t, a, b.host.ID())
	down := make(chan struct{}, 1)
	a.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) { netmon.Hint(down) }})
	denied.Store(true)
	a.CloseAll(b.host.ID())
	select {
	case <-down:
	case <-time.After(storetest.AtMost(20 * time.Second)):
		t.Fatal("still connected 20 s after the peer was denied")
	}
	err := b.connect(t.Context(), b.host.Peerstore().PeerInfo(a.host.ID()))
	if err == nil && a.connected(b.host.ID()) {
		t.Error("connected again while denied")
	}
}
