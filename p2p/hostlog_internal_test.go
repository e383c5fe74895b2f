package p2p

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

// shownStandIns returns the stand-ins for a link-local address on the loopback interface and for the host by vsock, and what
// is shown instead of each.
func shownStandIns(t *testing.T, g *transport.Gater) (linkLocal, vsock ma.Multiaddr, shown [2]string) {
	t.Helper()
	lo, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	real := "/ip6zone/" + lo.Name + "/ip6/fe80::1:2:3:4/tcp/6273"
	return must(g.StandIn(ma.StringCast(real))), must(netmon.TCPAddr(g.VsockAddr(2), 6273)), [2]string{real, "vsock:2:6273"}
}

func TestErrorsOfDialsHaveNoStandIns(t *testing.T) {
	l := newPeersNode(t, Config{}).lan
	linkLocal, vsock, _ := shownStandIns(t, l.gate)
	for _, m := range []ma.Multiaddr{linkLocal, vsock} {
		ip, _ := netmon.IPOf(m)
		err := l.connectAt(context.Background(), peer.AddrInfo{ID: newTestPeer(t), Addrs: []ma.Multiaddr{m}})
		if err == nil {
			t.Fatalf("%s was reached", m)
		}
		if strings.Contains(err.Error(), ip.String()) {
			t.Errorf("a dial ends with %q, which has a stand-in", err)
		}
	}
}

func TestNodeLogsNoStandIns(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	n := newPeersNode(t, Config{Log: zap.New(core)})
	_, vsock, _ := shownStandIns(t, n.lan.gate)
	for _, log := range []*zap.Logger{n.log, n.lan.log} {
		log.Info("marked", zap.String("addr", vsock.String()))
	}
	marked := logs.FilterMessage("marked").All()
	if len(marked) != 2 {
		t.Fatalf("%d lines, want 2", len(marked))
	}
	for _, line := range marked {
		if got := line.ContextMap()["addr"]; got != "vsock:2:6273" {
			t.Errorf("a node logs %q, want vsock:2:6273", got)
		}
	}
}
