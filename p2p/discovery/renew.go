package discovery

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multistream"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// A renewal holds the state that must be renewed because it may be stale.
type renewal struct {
	look  chan struct{} // the interfaces are to be looked at
	stale atomic.Bool   // and announced on even if they are as before
	probe chan struct{} // there are suspects

	mu       sync.Mutex // guards suspects
	suspects map[network.Conn]bool
}

func newRenewal() *renewal {
	return &renewal{look: make(chan struct{}, 1), probe: make(chan struct{}, 1), suspects: make(map[network.Conn]bool)}
}

// renew has everything done anew that a sleep may have made stale: the interfaces are looked at, this machine is
// announced, and neighbours are asked whether they are still there.
func (l *LAN) renew() {
	l.renewal.stale.Store(true)
	netmon.Hint(l.renewal.look)
}

// suspect has connections probed.
func (r *renewal) suspect(conns []network.Conn) {
	r.mu.Lock()
	for _, c := range conns {
		r.suspects[c] = true
	}
	r.mu.Unlock()
	netmon.Hint(r.probe)
}

// take returns the suspects and clears the list.
func (r *renewal) take() map[network.Conn]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := r.suspects
	r.suspects = make(map[network.Conn]bool)
	return conns
}

// probeSuspects closes suspected connections that do not answer, until ctx ends. TCP and yamux would find out too, but
// after most of the time in which a neighbour is to be back.
func (l *LAN) probeSuspects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.renewal.probe:
		}
		var probes sync.WaitGroup
		for c := range l.renewal.take() {
			probes.Go(func() {
				if !isAlive(ctx, c) && ctx.Err() == nil {
					l.Log.Debug("connection is dead", zap.Stringer("peer", c.RemotePeer()))
					l.discard(c)
				}
			})
		}
		probes.Wait()
	}
}

// isAlive reports whether the other side of a connection is there: it answers within [probeTimeout], or has closed the
// connection or the stream itself.
func isAlive(ctx context.Context, c network.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return ctx.Err() == nil
	}
	defer s.Reset()
	if err := s.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return true
	}
	err = multistream.SelectProtoOrFail(ping.ID, s) // agreeing on a protocol is a round trip
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

// outlived reports whether a connection of this age may be given up for a newer one. Young ones are left alone: two
// machines that dial each other at once could otherwise each close the connection that the other one keeps.
func outlived(age time.Duration) bool { return age > steady/2 }
