package discovery

import (
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
	"narbor/store/storetest"
)

func TestSecondHostOnThePortIsRefused(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	b, err := New(Config{}, testHostConfig(t, transport.ListenPort(a.host)), Hooks{})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("newLAN on a port in use = %v, want EADDRINUSE", err)
	}
	if err == nil {
		b.host.Close()
	}
}

func TestConnectionsAreSecuredByTLS(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	b, _ := startTestLAN(t, Config{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID())
	for _, c := range b.host.Network().ConnsToPeer(a.host.ID()) {
		state := c.ConnState()
		if state.Security != "/tls/1.0.0" || state.StreamMultiplexer != "/yamux/1.0.0" || state.Transport != "tcp" {
			t.Errorf("connection state %+v, want TLS and yamux over TCP", state)
		}
	}
}

// A peer is told of this machine's addresses when it connects, and again when they change.
func TestPeersAreToldOfNewAddresses(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	b, _ := startTestLAN(t, Config{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID())
	for _, addr := range []string{"10.91.7.5", "10.91.7.6", "fd91::7"} {
		bits := "/24"
		if strings.Contains(addr, ":") {
			bits = "/64"
		}
		storetest.Eventually(t, "heard of "+addr, func() bool {
			a.Links.Set([]netmon.Link{p2ptest.Link("eth91", addr+bits, "fe80::91/64")}) // again and again: follow may have looked, too
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

// BenchmarkStream copies through one stream, both ends in this process.
func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	x, _ := startTestLAN(b, Config{})
	y, _ := startTestLAN(b, Config{Peers: []string{loopback(x)}})
	waitConnected(b, y, x.host.ID())
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
