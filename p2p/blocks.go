package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
)

// pick returns the block to request from a holder or a partial peer, or false if there is none for it now. It may be
// [askBitfield] for a partial peer.
func (f *fetch) pick(nb *peers.Neighbour, owed []int) (int, bool) {
	a := ask{id: nb.ID, each: overdueAfter, owed: owed}
	if each, known := nb.Expect(); known {
		a.each = each
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	a.others = f.sources.othersRate(nb)
	return f.picker.pick(a, now)
}

// deliver writes a block, unless another peer was faster. It fails if the block does not match the manifest of its
// sender.
func (f *fetch) deliver(nb *peers.Neighbour, i int, data []byte, relayed bool) error {
	if f.blame.comparing() && !f.blame.accepts(i, sha256.Sum256(data)) {
		f.giveBack([]int{i})
		return fmt.Errorf("block %d is not the one in its manifest: %w", i, store.ErrCorrupt)
	}
	nb.Brought.Store(time.Now().UnixNano())
	f.mu.Lock()
	f.picker.blocks[i].requests--
	f.mu.Unlock()
	if !f.write(i, data, nb.ID, relayed) {
		nb.Tally.Wasted.Add(int64(len(data)))
	}
	return nil
}

// write writes a block, and returns false if another peer was faster. A write error is not the sender's fault, and ends
// the fetch.
func (f *fetch) write(i int, data []byte, from peer.ID, relayed bool) (first bool) {
	f.mu.Lock()
	first = f.picker.begin(i)
	f.mu.Unlock()
	if !first {
		return false
	}

	_, err := f.draft.WriteAt(data, int64(i)*store.BlockSize)

	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.run.err = err
		f.end()
		return true
	}
	last := f.picker.done(i, from, relayed, time.Now())
	origin, name := f.origin(from)
	f.received(origin, f.m, name, len(data))
	f.notify()
	if last {
		f.end()
	}
	return true
}

// end wakes the goroutines that wait for this run's end. The caller holds mu.
func (f *fetch) end() {
	select {
	case <-f.run.complete:
	default:
		close(f.run.complete)
	}
}

// giveBack makes blocks that a holder owes missing again, unless another was asked, too.
func (f *fetch) giveBack(owed []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.picker.giveBack(owed)
}

// failed takes a holder out of the fetch, and strikes it if the error says that it lied.
func (f *fetch) failed(ctx context.Context, nb *peers.Neighbour, err error) {
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, wire.ErrWire) {
		f.strike(nb.ID, err)
		return
	}
	if errors.Is(err, store.ErrCorrupt) {
		f.wrong(nb.ID, err)
		return
	}
	if f.leave(nb) { // it owes nothing
		f.log.Debug("neighbour passes nothing on", zap.Stringer("peer", nb.ID), zap.Stringer("path", f.m.Path()), zap.Error(err))
		return
	}
	f.shunProxies(nb)
	f.log.Info("neighbour did not deliver", zap.Stringer("peer", nb.ID), zap.Stringer("path", f.m.Path()), zap.Error(err))
	failures := 1
	if stalledOut(err) {
		f.mu.Lock()
		f.sources.tooSlow[nb] = true
		f.mu.Unlock()
		failures = stalled
	}
	f.exclude(nb.ID, failures)
}

// strike counts a lie of a peer, and takes it out of the fetch for good.
func (f *fetch) strike(id peer.ID, cause error) {
	f.conduct.Strike(id, fmt.Errorf("%s: %w", f.m.Path(), cause))
	f.exclude(id, lied)
}

// wrong records that what a peer vouches for is wrong, and takes it out of the fetch for good.
func (f *fetch) wrong(id peer.ID, cause error) {
	f.exclude(id, lied)
	f.conduct.Wrong(id, f.m, cause)
}

func (f *fetch) exclude(id peer.ID, failures int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources.exclude(id, failures)
}
