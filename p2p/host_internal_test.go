package p2p

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

func TestSecondHostOnThePortIsRefused(t *testing.T) {
	a, _ := startTestLAN(t, lanConfig{})
	b, err := newLAN(lanConfig{Identity: newTestIdentity(t), Port: listenPort(a.host)})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("newLAN on a port in use = %v, want EADDRINUSE", err)
	}
	if err == nil {
		b.host.Close()
	}
}

func TestConnectionsAreSecuredByTLS(t *testing.T) {
	a, _ := startTestLAN(t, lanConfig{})
	b, _ := startTestLAN(t, lanConfig{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID(), 5*time.Second)
	for _, c := range b.host.Network().ConnsToPeer(a.host.ID()) {
		state := c.ConnState()
		if state.Security != "/tls/1.0.0" || state.StreamMultiplexer != "/yamux/1.0.0" || state.Transport != "tcp" {
			t.Errorf("connection state %+v, want TLS and yamux over TCP", state)
		}
	}
}

// A peer is told of this machine's addresses when it connects, and again when they change.
func TestPeersAreToldOfNewAddresses(t *testing.T) {
	a, _ := startTestLAN(t, lanConfig{})
	b, _ := startTestLAN(t, lanConfig{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID(), 5*time.Second)
	for _, addr := range []string{"10.91.7.5", "10.91.7.6", "fd91::7"} {
		bits := "/24"
		if strings.Contains(addr, ":") {
			bits = "/64"
		}
		eventually(t, "heard of "+addr, func() bool {
			a.setLinks([]netmon.Link{testLink("eth91", addr+bits, "fe80::91/64")}) // again and again: follow may have looked, too
			var told []string
			for _, m := range b.host.Peerstore().Addrs(a.host.ID()) {
				if ip, ok := netmon.IPOf(m); ok && !ip.IsLoopback() {
					told = append(told, ip.String())
				}
			}
			return slices.Equal(told, []string{addr})
		})
	}
}

func TestWholeLANMayConnect(t *testing.T) {
	rm, err := newResourceManager()
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
			if err := scope.SetPeer(newTestPeer(t)); err == nil {
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

// BenchmarkStream copies through one stream, both ends in this process.
func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	x, _ := startTestLAN(b, lanConfig{})
	y, _ := startTestLAN(b, lanConfig{Peers: []string{loopback(x)}})
	waitConnected(b, y, x.host.ID(), 5*time.Second)
	x.host.SetStreamHandler("/bench", func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 256<<10)
		for range size / len(buf) {
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
	b.SetBytes(size)
	buf := make([]byte, 256<<10)
	for b.Loop() {
		s, err := y.host.NewStream(b.Context(), x.host.ID(), "/bench")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.CopyBuffer(onlyWriter{io.Discard}, s, buf)
		if n != size || err != nil {
			b.Fatalf("copied %d bytes, %v, want %d", n, err, size)
		}
		s.Close()
	}
}

// onlyWriter hides io.Discard's own way of reading.
type onlyWriter struct{ io.Writer }
