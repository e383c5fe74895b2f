package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// spendMiss takes a miss from a peer's quota, so that something about a hash part may be looked up for it; found gives
// it back. It returns false if fewer than reserve misses would be left. A peer that goes on all the same gets a strike.
func (srv *Server) spendMiss(c Client, hp store.HashPart, reserve int) bool {
	p := c.quota
	ok, ownFault := p.take(reserve)
	if there := p.machine.Load(); ok && there != nil {
		if ok, ownFault = there.take(reserve); !ok {
			p.giveBack()
		}
	}
	if ok {
		return true
	}
	if p.silent.Add(1) == 1 {
		srv.cfg.Log.Info("neighbour asks for much that is not here, so some of it is answered without looking",
			zap.Stringer("peer", c.tally.ID))
	}
	if ownFault && srv.repeats.first(c.tally.ID, hp) && !p.patience.spend() { // otherwise others have asked too much
		srv.cfg.Ledger.Strike(c.tally.ID, fmt.Errorf("asked about far more than %d paths that are not here: %w", missPatience,
			peers.ErrProbing))
	}
	return false
}

func (srv *Server) claimTo(ctx context.Context, c Client, hp store.HashPart) (sharedClaim, error) {
	if !srv.spendMiss(c, hp, narMisses) {
		return sharedClaim{}, store.ErrNotFound
	}
	srv.cfg.Meet(c.tally.ID, hp)
	made, err := srv.sharedClaim(ctx, hp)
	if err == nil || !errors.Is(err, store.ErrNotFound) { // a store that cannot be read is not the peer's fault
		c.quota.found()
	}
	if staysHere(err) {
		srv.counts.asked(trust.KindKept)
	}
	return made, err
}

// refuse answers a request with "not here", for each thing that it asks for.
func refuse(bw *bufio.Writer, r wire.Request) error {
	b := make([]byte, len(r.HashParts), len(r.HashParts)+1)
	if r.Kind == wire.AskClaims {
		b = append(b, 0) // nothing further
	}
	_, err := bw.Write(b)
	return err
}
