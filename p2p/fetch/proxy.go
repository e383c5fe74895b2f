package fetch

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

// errRefused says that a neighbour does not fetch a NAR for us: it has enough to do, or its upstreams have not signed
// it.
var errRefused = errors.New("refused")

// start lets the NAR come from an upstream: through the assigned neighbour, or from ours. It returns false if it starts
// nothing: there is no upstream, a holder's manifest is tested, or the partial peers may suffice.
func (s *supply) start(ctx context.Context, c *crew, partials int) bool {
	tries := int(s.tries.Load())
	if s.blame.comparing() || tries >= supplyTries*len(s.Upstreams) {
		return false
	}
	if s.doubted && !s.again { // a neighbour that has fetched it by now vouches for it
		s.again = true
		s.joinAgain(ctx)
		return true
	}
	proxy, others := s.assignee()
	_, last := s.plan.swarm()
	if others == 0 && partials > 0 && !s.urged.Load() && time.Since(last) <= ProxyPatience {
		return false
	}
	if proxy != nil {
		return c.start(func() { s.rely(ctx, proxy) })
	}
	s.busy.Store(true)
	u := s.Upstreams[tries%len(s.Upstreams)]
	s.last = u
	return c.start(func() { s.askUpstream(ctx, u) })
}

// assignee returns the neighbour that is assigned to download the NAR from its upstream, or nil if this node is;
// others is the number of neighbours that took part.
func (s *supply) assignee() (proxy *peers.Neighbour, others int) {
	if s.doubted || s.secret || s.urged.Load() || s.proxies.isLast() {
		return nil, 0
	}
	return s.Swarm.Assignee(s.Wanted.Path().HashPart(), func(nb *peers.Neighbour) bool {
		return s.proxies.has(nb) || s.plan.leavesOut(nb)
	})
}

// rely lets a neighbour fetch the NAR, and takes the blocks from it as they come, for as long as that is better than to
// fetch it here.
func (s *supply) rely(ctx context.Context, nb *peers.Neighbour) {
	s.proxies.ask(nb)
	s.Log.Debug("neighbour is assigned to fetch", zap.Stringer("peer", nb.ID), zap.Stringer("path", s.Wanted.Path()))
	began := time.Now()
	err := s.watchProxy(ctx, nb)
	s.plan.setProxy(nb, false)
	s.proxies.ended(time.Since(began))
	if err == nil || ctx.Err() != nil {
		return
	}
	if !errors.Is(err, errRefused) {
		nb.Tally.BackOff(time.Now())
	}
	if errors.Is(err, wire.ErrWire) {
		s.strike(nb.ID, err)
	}
	s.Log.Info("neighbour does not fetch for us", zap.Stringer("peer", nb.ID), zap.Stringer("path", s.Wanted.Path()), zap.Error(err))
}

// watchProxy asks a neighbour how far it is until it has the NAR, or is not worth waiting for.
func (s *supply) watchProxy(ctx context.Context, nb *peers.Neighbour) error {
	t := newProxyWatch(time.Now(), s.plan.missing())
	if until, ok := ctx.Deadline(); ok && until.Before(t.until) {
		t.until = until
	}
	for {
		p, err := nb.AskFetch(ctx, s.Wanted.Path().HashPart(), s.Wanted.NarHash())
		switch {
		case errors.Is(err, wire.ErrWire):
			return err
		case err == nil && p.Verdict == wire.VerdictHere:
			s.join([]Holder{{nb, false}})
			return nil
		case err == nil && (p.Verdict != wire.VerdictYes || !s.setProxy(nb)):
			return errRefused
		case err != nil && (t.answered.IsZero() || nb.Gone()):
			return err
		case err == nil:
			t.answer(time.Now(), p.Got, p.Pace)
		}
		t.received(s.lastFrom(nb), s.plan.missing())
		if err := t.problem(time.Now(), s.Throughput.Rate()); err != nil {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-s.plan.complete:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lastFrom is when a block of this NAR came last, or of any NAR from the neighbour.
func (s *supply) lastFrom(nb *peers.Neighbour) time.Time {
	_, last := s.plan.swarm()
	if at := time.Unix(0, nb.Brought.Load()); at.After(last) {
		last = at
	}
	return last
}

// setProxy makes a neighbour one that will have all blocks. It returns false if no blocks are taken from it.
func (s *supply) setProxy(nb *peers.Neighbour) bool {
	set := s.plan.setProxy(nb, true)
	if set {
		s.proxies.delivers()
	}
	return set
}
