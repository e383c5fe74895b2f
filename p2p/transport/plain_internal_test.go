package transport

import (
	"errors"
	"net"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

func TestStandInsAreShownAsWhatTheyStandFor(t *testing.T) {
	g := NewGater(nil, nil)
	linkLocal, vsock, shown := shownStandIns(t, g)
	for i, m := range []ma.Multiaddr{linkLocal, vsock} {
		if got := g.Text(m); got != shown[i] {
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
		"dial tcp [" + g.VsockAddr(3).String() + "]:1": "dial tcp vsock:3:1",
		"/ip6/" + g.VsockAddr(vsockAny).String():       "vsock:*",
		"[105::1]:80 /ip6/105:1::2/tcp/3 and 1a2:b":    "[105::1]:80 /ip6/105:1::2/tcp/3 and 1a2:b",
	} {
		if got := g.plain(text); got != want {
			t.Errorf("plain(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestLogHasNoStandIns(t *testing.T) {
	g := NewGater(nil, nil)
	core, logs := observer.New(zapcore.InfoLevel)
	linkLocal, vsock, _ := shownStandIns(t, g)
	log := g.PlainLog(zap.New(core)).With(zap.String("addr", linkLocal.String()))
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

func TestStandInsAreForUsAlone(t *testing.T) {
	g := NewGater(nil, nil)
	lo, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	g.SetLinks([]netmon.Link{p2ptest.Link(lo.Name, "fe80::5/64", "fd01::5/64")})
	m := ma.StringCast("/ip6zone/" + lo.Name + "/ip6/fe80::1:2:3:4/tcp/6273")
	s, err := g.StandIn(m)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := netmon.IPOf(s)
	if back, err := g.real(a); err != nil || back.String() != "fe80::1:2:3:4%"+lo.Name {
		t.Errorf("real(%s) = %s, %v", a, back, err)
	}
	if !g.InterceptAddrDial("", s) {
		t.Errorf("%s for %s may not be dialled", s, m)
	}
	g.SetLinks([]netmon.Link{p2ptest.Link("other0", "fe80::5/64")})
	if g.InterceptAddrDial("", s) {
		t.Errorf("%s is dialled on a link that is not used", s)
	}
	other := NewGater(nil, nil)
	other.SetLinks([]netmon.Link{p2ptest.Link(lo.Name, "fe80::5/64")})
	if other.InterceptAddrDial("", s) {
		t.Errorf("%s of another machine is dialled", s)
	}
	for _, bad := range []string{
		"/ip6/fe80::1/tcp/1", "/ip6zone/nowhere9/ip6/fe80::1/tcp/1", "/ip6zone/" + lo.Name + "/ip6/fe80:1::1/tcp/1",
		"/ip6zone/" + lo.Name + "/ip6/fd00::1/tcp/1", "/ip4/10.0.0.1/tcp/1",
	} {
		if s, err := g.StandIn(ma.StringCast(bad)); err == nil {
			t.Errorf("standIn(%s) = %s, want an error", bad, s)
		}
	}
}
