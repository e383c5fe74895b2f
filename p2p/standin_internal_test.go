package p2p

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/netmon"
)

// shownStandIns returns the stand-ins for a link-local address on the loopback interface and for the host by vsock, and what
// is shown instead of each.
func shownStandIns(t *testing.T, g *gater) (linkLocal, vsock ma.Multiaddr, shown [2]string) {
	t.Helper()
	lo, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	real := "/ip6zone/" + lo.Name + "/ip6/fe80::1:2:3:4/tcp/6273"
	return must(g.standIn(ma.StringCast(real))), must(netmon.TCPAddr(g.vsockAddr(2), 6273)), [2]string{real, "vsock:2:6273"}
}

func TestStandInsAreShownAsWhatTheyStandFor(t *testing.T) {
	g := newGater(nil)
	linkLocal, vsock, shown := shownStandIns(t, g)
	for i, m := range []ma.Multiaddr{linkLocal, vsock} {
		if got := g.text(m); got != shown[i] {
			t.Errorf("text(%s) = %q, want %q", m, got, shown[i])
		}
		text := "dial " + m.String() + ": refused\n  * [" + m.String() + "] dial " + m.String() + "/p2p/x"
		want := "dial " + shown[i] + ": refused\n  * [" + shown[i] + "] dial " + shown[i] + "/p2p/x"
		if got := g.plain(text); got != want {
			t.Errorf("plain(%q) = %q, want %q", text, got, want)
		}
	}
	a, _ := netmon.IPOf(linkLocal)
	zone := strings.Split(shown[0], "/")[2]
	for text, want := range map[string]string{
		"dial tcp [" + a.String() + "]:6273: refused":  "dial tcp [fe80::1:2:3:4%" + zone + "]:6273: refused",
		"[" + a.String() + "]":                         "[fe80::1:2:3:4%" + zone + "]",
		"dial tcp [" + g.vsockAddr(3).String() + "]:1": "dial tcp vsock:3:1",
		"/ip6/" + g.vsockAddr(vsockAny).String():       "vsock:*",
		"[105::1]:80 /ip6/105:1::2/tcp/3 and 1a2:b":    "[105::1]:80 /ip6/105:1::2/tcp/3 and 1a2:b",
	} {
		if got := g.plain(text); got != want {
			t.Errorf("plain(%q) = %q, want %q", text, got, want)
		}
	}
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

func TestLogHasNoStandIns(t *testing.T) {
	g := newGater(nil)
	core, logs := observer.New(zapcore.InfoLevel)
	linkLocal, vsock, _ := shownStandIns(t, g)
	log := g.plainLog(zap.New(core)).With(zap.String("addr", linkLocal.String()))
	log.Info("m", zap.Error(errors.New("dial "+vsock.String())), zap.Stringer("to", linkLocal))
	log.Debug("not kept")
	if logs.Len() != 1 {
		t.Fatalf("%d lines, want 1", logs.Len())
	}
	for k, v := range logs.All()[0].ContextMap() {
		if text := v.(string); strings.Contains(text, "/1") || !strings.Contains(text, "fe80") && !strings.Contains(text, "vsock:2") {
			t.Errorf("%s is logged as %q", k, text)
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
