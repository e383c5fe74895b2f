package fetch

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

// errRefused says that a neighbour does not fetch a NAR for us: it has enough to do, or its upstreams have not signed it.
var errRefused = errors.New("refused")

// proxies is which neighbours download the NAR for this node. The fetch's mutex guards it.
type proxies struct {
	asked     map[peer.ID]bool // the neighbours that were asked to
	delivered bool             // one of them does, or did
	waited    bool             // for one of them, for so long that no other is asked
}

// electProxy returns the neighbour that is assigned to download the NAR from its upstream, or nil if this node is; others is
// the number of neighbours that took part.
func (f *Session) electProxy() (proxy *peers.Neighbour, others int) {
	f.mu.Lock()
	asked, closed := len(f.proxies.asked), f.swarming.closed || f.proxies.waited
	f.mu.Unlock()
	if closed || asked >= maxProxies || f.uplink.urged.Load() || f.secret {
		return nil, 0
	}
	return f.Swarm.Elect(f.Wanted.Path().HashPart(), func(nb *peers.Neighbour) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.proxies.asked[nb.ID] || f.sources.excluded[nb.ID] || !f.Conduct.Takes(nb, f.Wanted) || nb.Tally.IsDistrusted(time.Now())
	})
}

// rely lets a neighbour fetch the NAR, and takes the blocks from it as they come, for as long as that is better than to
// Session it here.
func (f *Session) rely(ctx context.Context, nb *peers.Neighbour) {
	f.mu.Lock()
	f.proxies.asked[nb.ID] = true
	f.mu.Unlock()
	f.Log.Debug("neighbour is elected to fetch", zap.Stringer("peer", nb.ID), zap.Stringer("path", f.Wanted.Path()))
	began := time.Now()
	err := f.watchProxy(ctx, nb)
	f.setProxy(nb, false)
	f.mu.Lock()
	f.proxies.waited = f.proxies.waited || time.Since(began) > waitedEnough
	f.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return
	}
	if !errors.Is(err, errRefused) {
		nb.Tally.Shun(time.Now())
	}
	if errors.Is(err, wire.ErrWire) {
		f.strike(nb.ID, err)
	}
	f.Log.Info("neighbour does not fetch for us", zap.Stringer("peer", nb.ID), zap.Stringer("path", f.Wanted.Path()), zap.Error(err))
}

// watchProxy asks a neighbour how far it is until it has the NAR, or is not worth waiting for.
func (f *Session) watchProxy(ctx context.Context, nb *peers.Neighbour) error {
	t := newProxyWatch(time.Now(), f.missing())
	if until, ok := ctx.Deadline(); ok && until.Before(t.until) {
		t.until = until
	}
	for {
		v, got, pace, err := nb.AskFetch(ctx, f.Wanted.Path().HashPart(), f.Wanted.NarHash())
		switch {
		case errors.Is(err, wire.ErrWire):
			return err
		case err == nil && v == wire.VerdictHere:
			f.join([]Holder{{nb, false}})
			return nil
		case err == nil && (v != wire.VerdictYes || !f.setProxy(nb, true)):
			return errRefused
		case err != nil && (t.answered.IsZero() || nb.Gone()):
			return err
		case err == nil:
			t.answer(time.Now(), got, pace)
		}
		t.received(f.lastFrom(nb), f.missing())
		if err := t.problem(time.Now(), f.Throughput.Rate()); err != nil {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-f.run.complete:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lastFrom is when a block of this NAR came last, or of any NAR from the neighbour.
func (f *Session) lastFrom(nb *peers.Neighbour) time.Time {
	f.mu.Lock()
	last := f.picker.swarm.last
	f.mu.Unlock()
	if at := time.Unix(0, nb.Brought.Load()); at.After(last) {
		last = at
	}
	return last
}

// setProxy makes a neighbour one that can deliver all blocks, or ends that. It returns false if the neighbour can
// deliver none.
func (f *Session) setProxy(nb *peers.Neighbour, proxy bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if proxy && f.sources.isNew(nb) && f.Conduct.Takes(nb, f.Wanted) {
		f.offer(nb, true)
	}
	r := f.picker.swarm.members[nb.ID]
	if r != nil {
		r.proxy = proxy
		f.proxies.delivered = f.proxies.delivered || proxy
	}
	return r != nil
}

// shunProxies leaves neighbours out of elections for a while if they were asked to download this NAR.
func (f *Session) shunProxies(nbs ...*peers.Neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nb := range nbs {
		if f.proxies.asked[nb.ID] {
			nb.Tally.Shun(time.Now())
		}
	}
}

// wholeHolders returns the neighbours that claim to have the NAR.
func (f *Session) wholeHolders() []*peers.Neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sources.all)
}

// isProxy reports whether a neighbour downloads the NAR for this node.
func (f *Session) isProxy(nb *peers.Neighbour) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.picker.swarm.members[nb.ID]
	return r != nil && r.proxy
}

// quiet reports whether no block has come for so long.
func (f *Session) quiet(d time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.picker.swarm.last) > d
}

// hasDoubted reports whether the NAR has been here, and was wrong.
func (f *Session) hasDoubted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.swarming.closed
}
