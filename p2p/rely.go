package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// errRefused says that a neighbour does not fetch a NAR for us: it has enough to do, or its upstreams have not signed it.
var errRefused = errors.New("refused")

// electHelper returns the neighbour that is to fetch the NAR from its upstream, or nil if this node is to; and how many
// could be elected beside it.
func (f *fetch) electHelper() (who *neighbour, others int) {
	f.mu.Lock()
	asked, closed := len(f.helpers), f.crowd.closed
	f.mu.Unlock()
	if closed || asked >= maxHelpers || f.urged.Load() {
		return nil, 0
	}
	return f.node.elect(electorate(f.m.Path().HashPart()), func(nb *neighbour) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.helpers[nb.id] || f.excluded[nb.id] || nb.tally.isDistrusted(time.Now())
	})
}

// rely lets a neighbour fetch the NAR, and takes the blocks from it as they come, for as long as that is better than to
// fetch it here.
func (f *fetch) rely(ctx context.Context, nb *neighbour) {
	f.mu.Lock()
	f.helpers[nb.id] = true
	f.mu.Unlock()
	f.node.log.Debug("neighbour is elected to fetch", zap.Stringer("peer", nb.id), zap.Stringer("path", f.m.Path()))
	err := f.watchHelper(ctx, nb)
	f.setRoot(nb, false)
	if err == nil || ctx.Err() != nil {
		return
	}
	if !errors.Is(err, errRefused) {
		nb.shun()
	}
	if errors.Is(err, errWire) {
		f.liar(nb.id, err)
	}
	f.node.log.Info("neighbour does not fetch for us", zap.Stringer("peer", nb.id), zap.Stringer("path", f.m.Path()), zap.Error(err))
}

// watchHelper asks a neighbour how far it is until it has the NAR, or is not worth waiting for.
func (f *fetch) watchHelper(ctx context.Context, nb *neighbour) error {
	var got int64
	began := time.Now()
	moved := began
	for {
		v, g, pace, err := nb.askFetch(ctx, f.m.Path().HashPart(), f.m.NarHash())
		switch {
		case err != nil:
			return err
		case v == verdictHere:
			f.join([]holder{{nb, false}})
			return nil
		case v != verdictYes || !f.setRoot(nb, true):
			return errRefused
		}
		now := time.Now()
		if g > got {
			got, moved = g, now
		}
		if err := f.tooSlow(now, began, moved, pace); err != nil {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-f.complete:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tooSlow says why a neighbour is not worth waiting for that fetches since began, says that it has got more since moved,
// and that its upstreams send it pace bytes in a second.
func (f *fetch) tooSlow(now, began, moved time.Time, pace int64) error {
	f.mu.Lock()
	last := f.crowd.last
	f.mu.Unlock()
	if last.Before(began) {
		last = began
	}
	own := f.node.pace.rate()
	switch {
	case now.Sub(last) > deafPatience:
		return fmt.Errorf("nothing has come for %s", deafPatience)
	case now.Sub(last) > helpPatience && now.Sub(moved) > helpPatience:
		return fmt.Errorf("it has received nothing for %s", helpPatience)
	case now.Sub(began) > helpPatience && pace > 0 && (own == 0 && pace < slowPace || pace < own/slowFactor):
		return fmt.Errorf("its upstream sends %d bytes a second, ours %d", pace, own)
	}
	return nil
}

// setRoot makes a neighbour one of whom all blocks are to be had, or ends that. It returns false if nothing can be had
// of it.
func (f *fetch) setRoot(nb *neighbour, root bool) bool {
	if root {
		f.meet(nb)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.crowd.members[nb.id]
	if r != nil {
		r.root = root
		f.helped = f.helped || root
	}
	return r != nil
}

// isRoot says whether a neighbour fetches the NAR for us.
func (f *fetch) isRoot(nb *neighbour) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.crowd.members[nb.id]
	return r != nil && r.root
}

// quiet says whether no block has come for so long.
func (f *fetch) quiet(d time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.crowd.last) > d
}

// hasDoubted says whether the NAR has been here, and was wrong.
func (f *fetch) hasDoubted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crowd.closed
}
