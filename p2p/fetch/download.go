package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// A download is the state that the goroutines of a session share. Its parts have locks of their own.
type download struct {
	*Deps
	*content
	Wanted  trust.Mapping
	plan    *plan
	proxies proxies
	secret  bool  // no neighbour may learn that it is wanted; set by Fetch before it starts anything
	blame   blame // changes between runs only
}

// join adds holders, unless blocks are taken from a single one.
func (d *download) join(holders []Holder) {
	var whole []*peers.Neighbour
	for _, h := range holders {
		if h.Receiving {
			d.plan.addMember(h.Neighbour, false)
		} else {
			whole = append(whole, h.Neighbour)
		}
	}
	if !d.blame.comparing() {
		d.plan.join(byPromise(whole))
	}
}

// joinAgain asks all neighbours once more, and adds the holders. Those that failed without a lie may try again: a
// machine that changes from cable to radio is back under another address a moment later.
func (d *download) joinAgain(ctx context.Context) {
	if d.secret {
		return
	}
	holders := d.Swarm.Holders(ctx, d.Wanted, true)
	d.plan.readmit(holders)
	d.join(holders)
}

// deliver writes a block, unless another peer was faster. It fails if the block does not match the manifest of its
// sender.
func (d *download) deliver(nb *peers.Neighbour, i int, data []byte, relayed bool) error {
	if d.blame.comparing() && !d.blame.accepts(i, sha256.Sum256(data)) {
		d.plan.giveBack(i)
		return fmt.Errorf("block %d is not the one in its manifest: %w", i, store.ErrCorrupt)
	}
	nb.Brought.Store(time.Now().UnixNano())
	if !d.take(i, data, nb.ID, relayed) {
		nb.Tally.Wasted.Add(int64(len(data)))
	}
	return nil
}

// take writes a block, and returns false if another peer was faster. A write error is not the sender's fault, and ends
// the fetch.
func (d *download) take(i int, data []byte, from peer.ID, relayed bool) (first bool) {
	if !d.plan.arrives(i, from) {
		return false
	}
	if err := d.content.write(i, data); err != nil {
		d.plan.fail(err)
		return true
	}
	origin, name := d.proxies.origin(from)
	d.Received(origin, d.Wanted, name, len(data))
	d.plan.done(i, from, relayed)
	return true
}

// failed takes a holder out of the fetch, and strikes it if the error says that it lied.
func (d *download) failed(ctx context.Context, nb *peers.Neighbour, err error) {
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, wire.ErrWire) {
		d.strike(nb.ID, err)
		return
	}
	if errors.Is(err, store.ErrCorrupt) {
		d.wrong(nb.ID, err)
		return
	}
	var timeout net.Error
	stuck := errors.As(err, &timeout) && timeout.Timeout()
	if d.plan.failed(nb, stuck) {
		d.Log.Debug("neighbour passes nothing on", zap.Stringer("peer", nb.ID), zap.Stringer("path", d.Wanted.Path()), zap.Error(err))
		return
	}
	d.proxies.backOff(nb)
	d.Log.Info("neighbour did not deliver", zap.Stringer("peer", nb.ID), zap.Stringer("path", d.Wanted.Path()), zap.Error(err))
}

// strike counts a lie of a peer, and takes it out of the fetch for good.
func (d *download) strike(id peer.ID, cause error) {
	d.Conduct.Strike(id, fmt.Errorf("%s: %w", d.Wanted.Path(), cause))
	d.plan.exclude(id, lied)
}

// wrong records that blocks for which a peer vouches are wrong, and takes it out of the fetch for good.
func (d *download) wrong(id peer.ID, cause error) {
	d.plan.exclude(id, lied)
	d.Conduct.Wrong(id, d.Wanted, cause)
}
