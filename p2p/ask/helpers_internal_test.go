package ask

import (
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/p2p/wire"
	"narbor/trust"
)

// NewLookups and NewNeighbour are for the tests outside of the package.
var (
	NewLookups   = newTestLookups
	NewNeighbour = newTestNeighbour
)

// newTestLookups returns lookups of a machine without sources.
func newTestLookups(trusted *trust.Keys) *Lookups {
	return New(Config{Neighbours: peers.NewSet(), Ledger: peers.NewLedger("", zap.NewNop()),
		Secrets: secrets.New(secrets.Config{Trusted: trusted}), Log: zap.NewNop()})
}

func newTestNeighbour(ls *Lookups, id peer.ID) *peers.Neighbour {
	return peers.NewNeighbour(connectedHost{}, id, wire.ProtocolID, ls.Ledger)
}

// A connectedHost has one connection with each peer.
type connectedHost struct{ host.Host }

func (connectedHost) Network() network.Network { return oneConn{} }

type oneConn struct{ network.Network }

func (oneConn) ConnsToPeer(peer.ID) []network.Conn { return []network.Conn{nil} }
