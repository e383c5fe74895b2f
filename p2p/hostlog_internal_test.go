package p2p

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
)

func TestNodeLogsNoStandIns(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	n, err := New(Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t), Log: zap.New(core)}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.lan.Host().Close()
	vsock, err := netmon.TCPAddr(n.lan.Gate.VsockAddr(2), 6273)
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range []*zap.Logger{n.lookups.Log, n.lan.Log} {
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
