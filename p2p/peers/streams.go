package peers

import (
	"bufio"
	"context"
	"fmt"
	"sync"
	"time"

	"narbor/p2p/wire"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// streams are a neighbour's streams for blocks. Its methods may be called concurrently.
type streams struct {
	id   peer.ID
	host host.Host
	// protocol is [protocolID], or among members of a group [memberProtocol].
	protocol protocol.ID
	done     chan struct{} // closed when the neighbour is gone

	mu   sync.Mutex // guards idle
	idle []*Exchange
}

// Open opens a stream on which a read may make no progress for that long.
func (s *streams) Open(ctx context.Context, stall time.Duration) (*Exchange, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "neighbours are connected"), openTimeout)
	defer cancel()
	stream, err := s.host.NewStream(ctx, s.id, s.protocol)
	if err != nil {
		return nil, fmt.Errorf("neighbour %s: %w", s.id, err)
	}
	ex := &Exchange{Stream: stream, Stall: stall}
	ex.Reader = bufio.NewReaderSize(ex, 16<<10)
	return ex, nil
}

// Conns returns the connections with the neighbour.
func (s *streams) Conns() []network.Conn {
	if s.host == nil {
		return nil
	}
	return s.host.Network().ConnsToPeer(s.id)
}

// Take returns a stream for blocks on which nothing is under way.
func (s *streams) Take(ctx context.Context) (*Exchange, error) {
	s.mu.Lock()
	if last := len(s.idle) - 1; last >= 0 {
		ex := s.idle[last]
		s.idle = s.idle[:last]
		s.mu.Unlock()
		return ex, nil
	}
	s.mu.Unlock()
	return s.Open(ctx, ReadStall)
}

// Put gives back a stream on which every answer has been read.
func (s *streams) Put(ex *Exchange) {
	s.mu.Lock()
	select {
	case <-s.done:
	default:
		if len(s.idle) < maxIdleStreams {
			ex.Kept = true
			s.idle = append(s.idle, ex)
			s.mu.Unlock()
			return
		}
	}
	s.mu.Unlock()
	ex.Reset() // may wait for a connection that is stuck
}

// Leave ends the neighbour and resets its idle streams.
func (s *streams) Leave() {
	close(s.done)
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, ex := range idle {
		ex.Reset()
	}
}

// Gone reports whether the neighbour has ended.
func (s *streams) Gone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// An Exchange is a stream on which blocks are asked for; one goroutine at a time has it.
type Exchange struct {
	network.Stream
	Reader *bufio.Reader
	Stall  time.Duration // how long a read may make no progress
	Until  time.Time     // when the current read must be complete, whatever progress it makes; zero is no limit
	Kept   bool          // it was kept open, and nothing has been read from it since
}

// Send writes one request.
func (ex *Exchange) Send(r wire.Request) error {
	if err := ex.SetWriteDeadline(time.Now().Add(ReadStall)); err != nil {
		return err
	}
	_, err := ex.Write(r.Append(nil))
	return err
}

// Read sets a new deadline for each read, so that a slow neighbour is tolerated and a silent one is not.
func (ex *Exchange) Read(p []byte) (int, error) {
	deadline := time.Now().Add(ex.Stall)
	if !ex.Until.IsZero() && ex.Until.Before(deadline) {
		deadline = ex.Until
	}
	if err := ex.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return ex.Stream.Read(p)
}
