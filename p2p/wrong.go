package p2p

import (
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/trust"
)

// A NAR that does not have its hash is no proof of a lie: a store that a power cut has damaged sends such NARs, and its
// manifests agree with them, or were made before. So a wrong NAR costs no strike. Its sender is told, and that path is not
// taken from it for [peers.WrongFor]; a peer with wrong NARs of several paths is set aside, see [peers.Tally.SentWrong].

// sentWrong records that a peer has sent a wrong NAR: the first time for each path in [peers.WrongFor] it counts, and the peer
// is told.
func (n *Node) sentWrong(id peer.ID, m trust.Mapping, cause error) {
	if !n.ledger.SentWrong(id, m, cause) {
		return
	}
	nb := n.neighbours.get(id)
	if nb == nil || !n.background.begin() {
		return
	}
	go func() {
		defer n.background.running.Done()
		if err := nb.TellWrong(n.background.ctx, m); err != nil {
			n.log.Debug("neighbour was not told of a wrong NAR", zap.Stringer("peer", id), zap.Stringer("path", m.Path()), zap.Error(err))
		}
	}()
}
