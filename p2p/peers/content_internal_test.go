package peers

import (
	"context"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"narbor/p2p/wire"
)

// A streamHost has one stream to all peers.
type streamHost struct {
	host.Host
	stream network.Stream
}

func (h streamHost) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return h.stream, nil
}

// newTestNeighbour returns a neighbour that has one stream.
func newTestNeighbour(s network.Stream) *Neighbour {
	return NewNeighbour(streamHost{stream: s}, "peer", wire.ProtocolID, NewLedger("", zap.NewNop()))
}
