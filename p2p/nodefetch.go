package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// nodeSwarm implements [fetch.Swarm].
type nodeSwarm struct {
	*lookups
	n *Node
}

func (n nodeSwarm) Elect(hp store.HashPart, out func(*peers.Neighbour) bool) (proxy *peers.Neighbour, others int) {
	return n.n.elect(electorate(hp), out)
}

// nodeConduct implements [fetch.Conduct].
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
