package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/trust"
)

// tick is the interval of the check for overdue blocks.
const tick = 10 * time.Millisecond

// Fetch gets the NAR of a mapping into the spool, from all neighbours that have it at once, or if there are none from
// an upstream. Its bytes have the mapping's NarHash. The caller closes the result. The error wraps [store.ErrNotFound]
// if neither an honest neighbour that has it nor an upstream is left, [store.ErrNoSpace] if the spool is full, and
// [store.ErrMalformed] if it was fetched and must not reach Nix; no neighbour is blamed for that.
func (n *Node) Fetch(ctx context.Context, m trust.Mapping) (*store.Spooled, error) {
	n.awaitJob(ctx, m)
	if sp, ok := n.cfg.Spool.Get(m.NarHash()); ok {
		// It may have been fetched for another mapping; its check does not cover this path.
		if err := m.CheckNAR(sp); err != nil {
			sp.Close()
			return nil, fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
		}
		return sp, nil
	}
	f, err := n.newFlight(m)
	if err != nil {
		return nil, err
	}
	return n.fly(ctx, f)
}

// newFlight begins to receive a NAR; others may ask for its blocks from then on. The caller calls fly.
func (n *Node) newFlight(m trust.Mapping) (*fetch, error) {
	draft, err := n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		n.sharer.closeIdle(0) // the spool cannot clear out archives that are open for neighbours
		draft, err = n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	f := n.newFetch(m, draft)
	f.landed = n.fetched.begin(f) // before others are asked: so that of two nodes that begin at once, one sees the other
	return f, nil
}

// fly receives the NAR.
func (n *Node) fly(ctx context.Context, f *fetch) (*store.Spooled, error) {
	defer f.draft.Discard()
	defer f.landed()
	m := f.m
	if f.secret = n.secretNAR(ctx, m) != nil; !f.secret {
		f.join(n.holders(ctx, m, false))
	}
	if f.nobody() && len(n.cfg.Upstreams) == 0 {
		return nil, fmt.Errorf("%s: no neighbour has it: %w", m.Path(), store.ErrNotFound)
	}
	start := time.Now()
	sp, err := f.honest(ctx)
	f.account(start, err)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	n.fetched.add(m)
	if f.inDemand() {
		n.sharer.offer(m, sp)
	}
	n.log.Debug("fetched", zap.Stringer("path", m.Path()), zap.Int64("size", m.NarSize()),
		zap.Duration("dur", time.Since(start)), zap.Int("peers", len(f.contributors())))
	return sp, nil
}

// honest fetches, and excludes liars, until the NAR is right or no source is left.
func (f *fetch) honest(ctx context.Context) (*store.Spooled, error) {
	for {
		if err := f.run(ctx); err != nil {
			return nil, err
		}
		sp, err := f.draft.Commit(f.m.CheckNAR)
		if errors.Is(err, store.ErrCorrupt) {
			sp, err = f.attribute(ctx, err)
		}
		if sp != nil {
			f.settle(sp)
		} else if errors.Is(err, store.ErrMalformed) { // it is what the upstream signed all the same
			f.settle(f.draft)
		}
		if sp != nil || err != nil {
			return sp, err
		}
	}
}

// run gets all blocks that are missing. It returns once they are in the draft, or no source is left to ask.
func (f *fetch) run(ctx context.Context) error {
	f.complete = make(chan struct{})
	if f.missing() == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	s := shift{fetch: f, holders: newCrew(), relays: newCrew(), supply: newCrew(), began: time.Now(), blocks: f.missing(), before: -1}
	defer func() {
		cancel()
		s.holders.wait()
		s.relays.wait()
		s.supply.wait()
	}()
	ticker := time.NewTicker(overdueAfter)
	defer ticker.Stop()
	for s.holders.size < min(maxWorkers, s.blocks) && s.start(ctx, &s.holders, f.nextHolder()) {
	}
	askedAround := s.began
	for {
		if done, err := f.state(); done || err != nil {
			return err
		}
		if again, err := s.fill(ctx); err != nil {
			return err
		} else if again {
			continue
		}
		select {
		case <-s.holders.ended:
			s.holders.size--
		case <-s.relays.ended:
			s.relays.size--
		case <-s.supply.ended:
			s.supply.size--
		case <-ticker.C:
			askedAround = f.lookAround(askedAround)
			if err := s.impatient(ctx); err != nil {
				return err
			}
			if f.overdue(overdueAfter) || s.holders.size < maxWorkers && f.unasked() {
				s.start(ctx, &s.holders, f.nextHolder())
			}
		case <-f.complete:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A shift holds the goroutines at work while a fetch runs. It is owned by run.
type shift struct {
	*fetch
	holders, relays, supply crew
	began                   time.Time
	pacer                   pacer
	blocks                  int // the number missing then
	before                  int // the number missing when no source was left, the last time
}

func (s *shift) start(ctx context.Context, c *crew, nb *neighbour) bool {
	if nb != nil {
		c.start(func() { s.work(ctx, nb) })
	}
	return nb != nil
}

// fill starts the goroutines that should run. again means that the fetch may have ended meanwhile, or there is more to
// start; the error, that no source is left.
func (s *shift) fill(ctx context.Context) (again bool, err error) {
	for !s.own.Load() && s.start(ctx, &s.relays, s.nextRelay()) {
	}
	alone := s.holders.size == 0 && !s.start(ctx, &s.holders, s.nextHolder())
	free := s.supply.size == 0 || s.urged.Load() && !s.own.Load()
	if free && (alone || s.crawls()) && s.startSupply(ctx, &s.supply, s.relays.size) {
		if !alone {
			s.shunHelper(s.slowHelpers()...)
		}
		return true, nil
	}
	if !alone || s.supply.size > 0 || s.relays.size > 0 && !s.stalled() {
		return false, nil
	}
	left := s.missing()
	if left == s.before || s.blame.comparing() {
		return false, fmt.Errorf("no neighbour is left that has it: %w", store.ErrNotFound)
	}
	s.before = left
	if !s.secret {
		s.readmit(s.swarm.Holders(ctx, s.m, true))
	}
	return true, nil
}

// crawls reports whether the holders would take so long for the rest of the NAR that an upstream is likely to be done
// in half the time.
func (s *shift) crawls() bool {
	took := time.Since(s.began)
	if took < judgedAfter || len(s.upstreams) == 0 {
		return false
	}
	rest, over := s.pacer.rest()
	if over < judgedAfter {
		left := s.missing()
		rest = remaining(took, s.blocks-left, left)
	}
	own := s.pace.rate()
	return rest > crawlTime && (own == 0 || float64(s.m.NarSize())/float64(own) < rest.Seconds()/2) // it begins at the beginning
}

// lookAround adds the neighbours that answered later than the first, or have the NAR by now. It returns when all were
// last asked.
func (f *fetch) lookAround(asked time.Time) time.Time {
	if time.Since(asked) > holdersFresh && !f.secret {
		f.swarm.AskAround(f.m)
		asked = time.Now()
	}
	f.join(f.swarm.Known(f.m))
	return asked
}

// A crew is the goroutines that ask holders of a kind. It is owned by the goroutine that runs run.
type crew struct {
	size  int
	ended chan struct{}
}

func newCrew() crew { return crew{ended: make(chan struct{})} }

func (c *crew) start(work func()) {
	c.size++
	go func() {
		work()
		c.ended <- struct{}{}
	}()
}

func (c *crew) wait() {
	for ; c.size > 0; c.size-- {
		<-c.ended
	}
}
