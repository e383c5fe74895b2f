package fetch

import (
	"context"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/rebase"
	"narbor/store/spool"
	"narbor/trust"
)

// A Session is one NAR on its way. Other peers may get the blocks that are here.
type Session struct {
	*download
	supply  supply
	rebuilt *rebase.Candidate // the last version that was rebuilt with a wrong hash; nil if there was none
}

// NewSession returns a session that writes into the draft. checked is the mapping as the sharing policy has checked it,
// and shared whether that lets other peers have it.
func (of *Deps) NewSession(m trust.Mapping, draft *spool.Draft, checked trust.Mapping, shared bool) *Session {
	d := &download{Deps: of, Wanted: m, content: newContent(m, draft, checked, shared), proxies: proxies{asked: map[peer.ID]bool{}},
		plan: &plan{sources: newSources(), picker: newPicker(store.NumBlocks(m.NarSize()), m.NarHash(), of.Self, time.Now()),
			takes: func(nb *peers.Neighbour) bool { return of.Conduct.Takes(nb, m) }}}
	return &Session{download: d, supply: supply{download: d}}
}

// AddMember makes a neighbour a member of the swarm.
func (s *Session) AddMember(nb *peers.Neighbour) { s.plan.addMember(nb, false) }

// IsPartial reports whether a neighbour is a member of the swarm.
func (s *Session) IsPartial(nb *peers.Neighbour) bool {
	partial, _ := s.plan.role(nb)
	return partial
}

// Urge records that neighbours wait for this node to ask its upstream.
func (s *Session) Urge() { s.supply.urged.Store(true) }

// InDemand reports whether neighbours are receiving the NAR, too.
func (s *Session) InDemand() bool {
	members, _ := s.plan.swarm()
	return s.shared && (members || s.supply.urged.Load())
}

// get fetches all blocks that are missing. It returns once they are in the draft, or no source is left to ask.
func (s *Session) get(ctx context.Context) error {
	missing := s.plan.begin()
	if missing == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	r := round{Session: s, holders: newCrew(), partials: newCrew(), suppliers: newCrew(), began: time.Now(), blocks: missing, before: -1}
	defer func() {
		cancel()
		r.holders.wait()
		r.partials.wait()
		r.suppliers.wait()
	}()
	ticker := time.NewTicker(overdueAfter)
	defer ticker.Stop()
	for !s.supply.upstreamsOnly() && r.holders.size < min(maxWorkers, r.blocks) && r.holders.start(r.asking(ctx, s.plan.nextHolder())) {
	}
	askedAround := r.began
	for {
		if done, err := s.plan.state(); done || err != nil {
			return err
		}
		if again, err := r.fill(ctx); err != nil {
			return err
		} else if again {
			continue
		}
		select {
		case <-r.holders.ended:
			r.holders.size--
		case <-r.partials.ended:
			r.partials.size--
		case <-r.suppliers.ended:
			r.suppliers.size--
		case <-ticker.C:
			askedAround = s.lookAround(askedAround)
			if err := r.impatient(ctx); err != nil {
				return err
			}
			if !s.supply.upstreamsOnly() && s.plan.needsHolder(r.holders.size < maxWorkers) {
				r.holders.start(r.asking(ctx, s.plan.nextHolder()))
			}
		case <-s.plan.complete:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lookAround adds the neighbours that answered later than the first, or have the NAR by now, unless the rest of the NAR
// is left to the upstreams. It returns when all were last asked.
func (s *Session) lookAround(asked time.Time) time.Time {
	if s.supply.upstreamsOnly() {
		return asked
	}
	if time.Since(asked) > HoldersFresh && !s.secret {
		s.Swarm.AskAround(s.Wanted)
		asked = time.Now()
	}
	s.join(s.Swarm.Known(s.Wanted))
	return asked
}

// A round holds the goroutines of one run. The goroutine of get owns it.
type round struct {
	*Session
	holders, partials, suppliers crew
	began                        time.Time
	progress                     progress
	blocks                       int // the number missing then
	before                       int // the number missing when no source was left, the last time
}

// asking returns the work of asking a neighbour for blocks; nil if there is none.
func (r *round) asking(ctx context.Context, nb *peers.Neighbour) func() {
	if nb == nil {
		return nil
	}
	return func() { r.work(ctx, nb) }
}

// fill starts the goroutines that should run. again means that the fetch may have ended meanwhile, or there is more to
// start; the error, that no source is left.
func (r *round) fill(ctx context.Context) (again bool, err error) {
	for !r.supply.busy.Load() && r.partials.start(r.asking(ctx, r.plan.nextPartial())) {
	}
	alone := r.supply.upstreamsOnly() || r.holders.size == 0 && !r.holders.start(r.asking(ctx, r.plan.nextHolder()))
	free := r.suppliers.size == 0 || r.supply.urged.Load() && !r.supply.busy.Load()
	if free && (alone || r.crawls()) && r.supply.start(ctx, &r.suppliers, r.partials.size) {
		if !alone {
			r.proxies.backOff(r.plan.holders()...)
		}
		return true, nil
	}
	_, last := r.plan.swarm()
	if !alone || r.suppliers.size > 0 || r.partials.size > 0 && time.Since(last) <= PartialStall {
		return false, nil
	}
	left := r.plan.missing()
	if left == r.before || r.blame.comparing() {
		return false, fmt.Errorf("no neighbour is left that has it: %w", store.ErrNotFound)
	}
	r.before = left
	r.joinAgain(ctx)
	return true, nil
}

// crawls reports whether the holders would take so long for the rest of the NAR that an upstream is likely to be done
// in half the time.
func (r *round) crawls() bool {
	took := time.Since(r.began)
	if took < judgedAfter || len(r.Upstreams) == 0 {
		return false
	}
	rest, over := r.progress.remaining()
	if over < judgedAfter {
		left := r.plan.missing()
		rest = remaining(took, r.blocks-left, left)
	}
	own := r.Throughput.Rate()
	return rest > crawlTime && (own == 0 || float64(r.Wanted.NarSize())/float64(own) < rest.Seconds()/2) // it begins at the beginning
}

// impatient fails if the NAR comes so slowly that it is not worth waiting for.
func (r *round) impatient(ctx context.Context) error {
	now := time.Now()
	r.progress.sample(now, r.plan)
	rest, over := r.progress.remaining()
	if over < judgedAfter || rest <= crawlTime || r.suppliers.size > 0 {
		return nil
	}
	r.progress.record()
	if until, ok := ctx.Deadline(); ok && rest/2 > until.Sub(now) { // its holders may have less to do soon
		err := fmt.Errorf("%w: %w: at this pace it takes %s more, and may take %s", store.ErrNotFound, store.ErrSlow,
			rest.Round(time.Second), until.Sub(now).Round(time.Second))
		if pace, least := r.progress.rate(); pace >= least {
			return err
		}
		r.plan.markSlow()
		return err
	}
	pace, least := r.progress.rate()
	if pace >= least || len(r.Upstreams) > 0 { // an upstream is asked instead, unless it is slower still
		return nil
	}
	r.plan.markSlow()
	return fmt.Errorf("%w: %w: its holders send %d bytes a second, want %d", store.ErrNotFound, store.ErrSlow, pace, least)
}
