package transport

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/p2ptest"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
)

func TestConnectionsOfOneAddressComeSlowly(t *testing.T) {
	for _, addr := range []string{"/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1"} {
		synctest.Test(t, func(t *testing.T) {
			rm, err := newResourceManager(testHostConfig)
			if err != nil {
				t.Fatal(err)
			}
			defer rm.Close()
			open := func() (n int) {
				for range 2 * dialBurst {
					scope, err := rm.OpenConnection(network.DirInbound, true, ma.StringCast(addr))
					if err == nil {
						scope.Done()
						n++
					}
				}
				return n
			}
			if got := open(); got != dialBurst {
				t.Errorf("%s: %d connections are accepted at once, want %d", addr, got, dialBurst)
			}
			time.Sleep(10 * time.Second)
			if got := open(); got != 10*dialsPerSecond {
				t.Errorf("%s: %d connections are accepted 10 s later, want %d", addr, got, 10*dialsPerSecond)
			}
		})
	}
}

func TestIdleConnectionsAreClosedDownToALimit(t *testing.T) {
	cfg := testHostConfig
	cfg.Identity = p2ptest.NewIdentity(t)
	h, err := NewHost(cfg, NewGater(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	m, ok := h.ConnManager().(*connmgr.BasicConnMgr)
	if !ok {
		t.Fatalf("the connection manager is a %T", h.ConnManager())
	}
	if i := m.GetInfo(); i.LowWater != connsLow || i.HighWater != connsHigh || i.GracePeriod != connsGrace {
		t.Errorf("of more than %d connections %d stay, the others for %v, want %d, %d and %v",
			i.HighWater, i.LowWater, i.GracePeriod, connsHigh, connsLow, connsGrace)
	}
}

func TestWindowsOfStreamsAreBounded(t *testing.T) {
	m := newMuxer(NewGater(nil, nil), true)
	for name, mux := range map[string]network.Multiplexer{"TCP": m.Multiplexer, "vsock": m.vsock} {
		y, ok := mux.(*yamux.Transport)
		if !ok {
			t.Fatalf("%s is multiplexed by a %T", name, mux)
		}
		if y.InitialStreamWindowSize != firstWindow || y.MaxStreamWindowSize != lastWindow {
			t.Errorf("%s: the window of a stream is %d, and may grow to %d, want %d and %d",
				name, y.InitialStreamWindowSize, y.MaxStreamWindowSize, firstWindow, lastWindow)
		}
	}
}

func TestWholeLANMayConnect(t *testing.T) {
	rm, err := newResourceManager(testHostConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer rm.Close()
	open := func(format string, n int) (opened int) {
		for i := range n {
			addr := format
			if strings.Contains(format, "%") {
				addr = fmt.Sprintf(format, i+1)
			}
			scope, err := rm.OpenConnection(network.DirInbound, true, ma.StringCast(addr))
			if err != nil {
				continue
			}
			defer scope.Done()
			if err := scope.SetPeer(p2ptest.NewPeer(t)); err == nil {
				opened++
			}
		}
		return opened
	}
	for _, format := range []string{"/ip6/fd00::%x/tcp/6273", "/ip6/2001:db8::%x/tcp/6273", "/ip4/10.0.0.%d/tcp/6273"} {
		if n := open(format, 100); n != 100 {
			t.Errorf("%d of 100 neighbours at %s could connect", n, format)
		}
	}
	for _, addr := range []string{"/ip6/fd00::1/tcp/1", "/ip4/10.0.0.1/tcp/1"} {
		if n := open(addr, 100); n > connsPerIP || n < connsPerIP/2 {
			t.Errorf("%d connections from %s, want about %d", n, addr, connsPerIP)
		}
	}
	err = rm.ViewSystem(func(s network.ResourceScope) error {
		return s.ReserveMemory(maxMemory+1, network.ReservationPriorityAlways)
	})
	if err == nil {
		t.Errorf("more than %d bytes may be reserved", maxMemory)
	}
}

// testHostConfig has limits as a node sets them.
var testHostConfig = Config{Conns: 512, Streams: 4096, PeerStreams: 64, Log: zap.NewNop()}
