package ask

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// Config is what lookups need of the node. All fields are required but SinceAck, Sharing, and AddrOf outside of
// AskEach. Its functions may be called concurrently.
type Config struct {
	Neighbours *peers.Set
	Ledger     *peers.Ledger
	Secrets    *secrets.Policy
	Log        *zap.Logger
	// SinceAck returns how long ago a machine acknowledged something on a connection; nil is not known of any.
	SinceAck func(network.ConnMultiaddrs) (ago time.Duration, ok bool)
	// AddrOf returns the address by which a neighbour is connected, as text.
	AddrOf func(peer.ID) string
	// Sharing reports whether anything may leave this machine; nil is no. Without it nothing is offered.
	Sharing func() bool
}

// common is the part of [Lookups] that single lookups and offers use, too.
type common struct {
	Config
	findings *lru.Cache[store.HashPart, *Finding]
	busy     peers.BusyWait
}

// isBusy reports whether a neighbour that has not answered a question for that long may be alive and busy, by itself
// (see [peers.Neighbour.IsBusy]), or because its machine's kernel has acknowledged packets since.
func (c *common) isBusy(nb *peers.Neighbour, waited, lately time.Duration) bool {
	if nb.IsBusy(waited, lately) {
		return true
	}
	return c.SinceAck != nil && slices.ContainsFunc(nb.Conns(), func(conn network.Conn) bool {
		ago, ok := c.SinceAck(conn)
		return ok && ago < waited
	})
}

func (c *common) isHolder(m trust.Mapping, id peer.ID) bool {
	f, ok := c.findings.Peek(m.Path().HashPart())
	return ok && is(f.Mapping, m.NarHash(), m.NarSize()) && f.isWhole(id)
}
