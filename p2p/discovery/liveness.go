package discovery

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multistream"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// liveness closes suspected connections that do not answer a probe. TCP and yamux would detect them, too, but too late
// for a neighbour to be found again within its time.
type liveness struct {
	conns *Conns
	probe chan struct{} // there are suspects

	mu       sync.Mutex // guards suspects
	suspects map[network.Conn]bool
}

func newLiveness(conns *Conns) *liveness {
	return &liveness{conns: conns, probe: make(chan struct{}, 1), suspects: make(map[network.Conn]bool)}
}

// suspect has connections probed.
func (lv *liveness) suspect(conns []network.Conn) {
	lv.mu.Lock()
	for _, c := range conns {
		lv.suspects[c] = true
	}
	lv.mu.Unlock()
	netmon.Hint(lv.probe)
}

func (lv *liveness) take() map[network.Conn]bool {
	lv.mu.Lock()
	defer lv.mu.Unlock()
	conns := lv.suspects
	lv.suspects = make(map[network.Conn]bool)
	return conns
}

// run probes suspects until ctx ends.
func (lv *liveness) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lv.probe:
		}
		var probes sync.WaitGroup
		for c := range lv.take() {
			probes.Go(func() {
				if !isAlive(ctx, c) && ctx.Err() == nil {
					lv.conns.Log.Debug("connection is dead", zap.Stringer("peer", c.RemotePeer()))
					lv.conns.discard(c)
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
