package p2p

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// nodeSwarm implements [swarmSource].
type nodeSwarm struct{ *Node }

func (n nodeSwarm) Holders(ctx context.Context, m trust.Mapping, again bool) []fetch.Holder {
	return n.holders(ctx, m, again)
}

func (n nodeSwarm) Known(m trust.Mapping) []fetch.Holder { return n.known(m) }

func (n nodeSwarm) AskAround(m trust.Mapping) { n.askAround(m) }

func (n nodeSwarm) Elect(hp store.HashPart, out func(*peers.Neighbour) bool) (proxy *peers.Neighbour, others int) {
	return n.elect(electorate(hp), out)
}

// nodeConduct implements [conduct].
type nodeConduct struct{ *Node }

func (n nodeConduct) Takes(nb *peers.Neighbour, m trust.Mapping) bool {
	return n.ledger.TakesFrom(nb.Tally, peers.PairOf(nb, m))
}

func (n nodeConduct) Avoid(nb *peers.Neighbour, m trust.Mapping, d time.Duration, reason string) {
	n.ledger.Avoid(peers.PairOf(nb, m), d, reason)
}

func (n nodeConduct) Strike(id peer.ID, cause error) {
	n.ledger.Refuse(peers.Refusal(cause))
	n.ledger.Strike(id, cause)
}

func (n nodeConduct) Wrong(id peer.ID, m trust.Mapping, cause error) { n.sentWrong(id, m, cause) }

func (n nodeConduct) Distrust(id peer.ID) { n.ledger.TallyOf(id).Distrust(time.Now()) }
