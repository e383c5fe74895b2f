package transport

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/p2ptest"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

func newTestTLS(t *testing.T) *timeless {
	t.Helper()
	s, err := newTimeless(libp2ptls.ID, p2ptest.NewIdentity(t), []tptu.StreamMuxer{{ID: yamux.ID}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// secured lets two meet. The server's error counts, and the client's.
func secured(ctx context.Context, server, client sec.SecureTransport, want peer.ID) (s, c sec.SecureConn, err error) {
	a, b := net.Pipe()
	failed := make(chan error, 1)
	go func() {
		var err error
		s, err = server.SecureInbound(ctx, a, "")
		failed <- err
	}()
	c, err = client.SecureOutbound(ctx, b, want)
	return s, c, errors.Join(err, <-failed)
}

// Machines with clocks that are decades apart meet.
func TestClocksDecadesApart(t *testing.T) {
	today := newTestTLS(t) // by the real clock, which is after 2025
	var future *timeless
	synctest.Test(t, func(t *testing.T) { // it is 2000 here
		past := newTestTLS(t)
		for _, pair := range [][2]*timeless{{today, past}, {past, today}} {
			s, c, err := secured(t.Context(), pair[0], pair[1], pair[0].self)
			if err != nil {
				t.Fatalf("26 years apart: %v", err)
			}
			if s.RemotePeer() != pair[1].self || c.RemotePeer() != pair[0].self {
				t.Errorf("the sides take each other for %s and %s", s.RemotePeer(), c.RemotePeer())
			}
		}
		time.Sleep(50 * 365 * 24 * time.Hour)
		future = newTestTLS(t)
	})
	for _, pair := range [][2]*timeless{{today, future}, {future, today}} {
		if _, _, err := secured(t.Context(), pair[0], pair[1], pair[0].self); err != nil {
			t.Errorf("a machine whose clock is in 2050: %v", err)
		}
	}
}

// It is TLS as other libp2p programs know it: both agree on the muxer, and on the peer IDs.
func TestTimelessSpeaksWithLibp2p(t *testing.T) {
	key := p2ptest.NewIdentity(t)
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	stock, err := libp2ptls.New(libp2ptls.ID, key, []tptu.StreamMuxer{{ID: yamux.ID}})
	if err != nil {
		t.Fatal(err)
	}
	ours := newTestTLS(t)
	for i, pair := range [][2]sec.SecureTransport{{ours, stock}, {stock, ours}} {
		want := []peer.ID{ours.self, id}
		s, c, err := secured(t.Context(), pair[0], pair[1], want[i])
		if err != nil {
			t.Fatal(err)
		}
		agreed := network.ConnectionState{StreamMultiplexer: yamux.ID, UsedEarlyMuxerNegotiation: true}
		if s.ConnState() != agreed || c.ConnState() != agreed || s.RemotePeer() != want[1-i] || c.RemotePeer() != want[i] {
			t.Errorf("the sides have %+v with %s and %+v with %s", s.ConnState(), s.RemotePeer(), c.ConnState(), c.RemotePeer())
		}
	}
	var mismatch sec.ErrPeerIDMismatch
	if _, _, err := secured(t.Context(), stock, ours, p2ptest.NewPeer(t)); !errors.As(err, &mismatch) || mismatch.Actual != id {
		t.Errorf("another peer than expected: %v, want that it is %s", err, id)
	}
}

// Noise has no dates at all.
func TestNoiseAcrossDecades(t *testing.T) {
	key := p2ptest.NewIdentity(t)
	today, err := noise.New(noise.ID, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		past, err := noise.New(noise.ID, p2ptest.NewIdentity(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := secured(t.Context(), today, past, id); err != nil {
			t.Error(err)
		}
	})
}
