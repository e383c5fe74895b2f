package fetch

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
func (f *Session) pick(nb *peers.Neighbour, owed []int) (int, bool) {
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
func (f *Session) deliver(nb *peers.Neighbour, i int, data []byte, relayed bool) error {
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
func (f *Session) write(i int, data []byte, from peer.ID, relayed bool) (first bool) {
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
	f.Received(origin, f.Wanted, name, len(data))
	f.notify()
	if last {
		f.end()
	}
	return true
}

// end wakes the goroutines that wait for this run's end. The caller holds mu.
func (f *Session) end() {
	select {
	case <-f.run.complete:
	default:
		close(f.run.complete)
	}
}

// giveBack makes blocks that a holder owes missing again, unless another was asked, too.
func (f *Session) giveBack(owed []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.picker.giveBack(owed)
}

// failed takes a holder out of the fetch, and strikes it if the error says that it lied.
func (f *Session) failed(ctx context.Context, nb *peers.Neighbour, err error) {
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
		f.Log.Debug("neighbour passes nothing on", zap.Stringer("peer", nb.ID), zap.Stringer("path", f.Wanted.Path()), zap.Error(err))
		return
	}
	f.shunProxies(nb)
	f.Log.Info("neighbour did not deliver", zap.Stringer("peer", nb.ID), zap.Stringer("path", f.Wanted.Path()), zap.Error(err))
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
func (f *Session) strike(id peer.ID, cause error) {
	f.Conduct.Strike(id, fmt.Errorf("%s: %w", f.Wanted.Path(), cause))
	f.exclude(id, lied)
}

// wrong records that what a peer vouches for is wrong, and takes it out of the fetch for good.
func (f *Session) wrong(id peer.ID, cause error) {
	f.exclude(id, lied)
	f.Conduct.Wrong(id, f.Wanted, cause)
}

func (f *Session) exclude(id peer.ID, failures int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources.exclude(id, failures)
}
