package fetch

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/rebase"
	"narbor/store/upstream"
	"narbor/trust"
)

// A Holder is a neighbour that claims to have a NAR, or to be receiving it.
type Holder struct {
	Neighbour *peers.Neighbour
	Receiving bool
}

// A Swarm finds the neighbours from which a NAR can be fetched. Its methods may be called concurrently.
type Swarm interface {
	// Holders returns the neighbours that claim to have a NAR. It asks all neighbours if the last answers are too old,
	// or if again is set.
	Holders(ctx context.Context, m trust.Mapping, again bool) []Holder
	// Known returns those that have claimed it, without asking any neighbour.
	Known(m trust.Mapping) []Holder
	// AskAround asks all neighbours, and does not wait: Known returns their answers later.
	AskAround(m trust.Mapping)
	// Assignee returns the neighbour that is assigned to download a path from its upstream, or nil if this node is; others
	// is the number of neighbours that took part, which are those for which out returns false.
	Assignee(hp store.HashPart, out func(*peers.Neighbour) bool) (proxy *peers.Neighbour, others int)
}

// A Conduct records what peers have done. Its methods may be called concurrently.
type Conduct interface {
	// Takes reports whether blocks of a NAR are taken from a neighbour.
	Takes(nb *peers.Neighbour, m trust.Mapping) bool
	// Avoid has a NAR not taken from a neighbour alone for a while.
	Avoid(nb *peers.Neighbour, m trust.Mapping, d time.Duration, reason string)
	// Strike counts a message that no honest peer sends.
	Strike(id peer.ID, cause error)
	// Wrong records that a peer has sent wrong blocks for which it vouched, and tells the peer.
	Wrong(id peer.ID, m trust.Mapping, cause error)
	// Distrust records that a peer has passed on wrong blocks that it had not verified.
	Distrust(id peer.ID)
}

// Deps is shared by all sessions of a node. It does not change.
type Deps struct {
	Self       peer.ID
	Swarm      Swarm
	Conduct    Conduct
	Upstreams  []*upstream.Cache
	Throughput *Throughput       // of all upstreams together
	Rebuilds   *rebase.Rebuilder // nil rebuilds nothing
	Received   func(o store.Origin, m trust.Mapping, from string, n int)
	Log        *zap.Logger
}
