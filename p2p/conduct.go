package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store/flight"
	"narbor/trust"
)

// A NAR that does not have its hash is no proof of a lie: a store that a power cut has damaged sends such NARs, and its
// manifests agree with them, or were made before. So a wrong NAR costs no strike. Its sender is told, and that path is
// not taken from it for an hour; a peer with wrong NARs of several paths is set aside, see [peers.Ledger.SentWrong].

// conduct implements [fetch.Conduct].
type conduct struct {
	neighbours *peers.Set
	ledger     *peers.Ledger
	background *flight.Life
	log        *zap.Logger
}

func (c conduct) Takes(nb *peers.Neighbour, m trust.Mapping) bool {
	return c.ledger.TakesFrom(nb.Tally, m)
}

func (c conduct) Avoid(nb *peers.Neighbour, m trust.Mapping, d time.Duration, reason string) {
	c.ledger.Avoid(nb.Tally, m, d, reason)
}

func (c conduct) Strike(id peer.ID, cause error) {
	c.ledger.CountRefused(cause)
	c.ledger.Strike(id, cause)
}

func (c conduct) Distrust(id peer.ID) { c.ledger.TallyOf(id).Distrust(time.Now()) }

// Wrong records that a peer has sent a wrong NAR: the first time for each path in an hour it counts, and the peer
// is told.
func (c conduct) Wrong(id peer.ID, m trust.Mapping, cause error) {
	if !c.ledger.SentWrong(id, m, cause) {
		return
	}
	nb := c.neighbours.Get(id)
	if nb == nil {
		return
	}
	c.background.Go(func() {
		if err := nb.TellWrong(c.background.Context(), m); err != nil {
			c.log.Debug("neighbour was not told of a wrong NAR", zap.Stringer("peer", id), zap.Stringer("path", m.Path()), zap.Error(err))
		}
	})
}
