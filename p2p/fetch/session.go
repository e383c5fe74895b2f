package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// tick is the interval of the check for overdue blocks.
const tick = 10 * time.Millisecond

// do receives the NAR. With secret, no neighbour may learn that it is wanted. It is called once.
func (f *Session) Fetch(ctx context.Context, secret bool) (*spool.NAR, error) {
	if f.secret = secret; !secret {
		f.join(f.Swarm.Holders(ctx, f.Wanted, false))
	}
	if f.noPeers() && len(f.Upstreams) == 0 {
		return nil, fmt.Errorf("%s: no neighbour has it: %w", f.Wanted.Path(), store.ErrNotFound)
	}
	start := time.Now()
	sp, err := f.untilRight(ctx)
	f.account(start, err)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Wanted.Path(), err)
	}
	f.Log.Debug("fetched", zap.Stringer("path", f.Wanted.Path()), zap.Int64("size", f.Wanted.NarSize()),
		zap.Duration("dur", time.Since(start)), zap.Int("peers", len(f.contributors())))
	return sp, nil
}

// untilRight fetches, and excludes peers that sent wrong blocks, until the NAR is right or no source is left.
func (f *Session) untilRight(ctx context.Context) (*spool.NAR, error) {
	for {
		if err := f.get(ctx); err != nil {
			return nil, err
		}
		sp, err := f.draft.Commit(f.Wanted.CheckNAR)
		if errors.Is(err, store.ErrCorrupt) {
			sp, err = f.attribute(ctx, err)
		}
		if sp != nil {
			f.blameSenders(sp)
		} else if errors.Is(err, store.ErrMalformed) { // it is what the upstream signed all the same
			f.blameSenders(f.draft)
		}
		if sp != nil || err != nil {
			return sp, err
		}
	}
}

// get fetches all blocks that are missing. It returns once they are in the draft, or no source is left to ask.
func (f *Session) get(ctx context.Context) error {
	f.run.complete = make(chan struct{})
	if f.missing() == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	s := round{Session: f, holders: newCrew(), partials: newCrew(), supply: newCrew(), began: time.Now(), blocks: f.missing(), before: -1}
	defer func() {
		cancel()
		s.holders.wait()
		s.partials.wait()
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
		case <-s.partials.ended:
			s.partials.size--
		case <-s.supply.ended:
			s.supply.size--
		case <-ticker.C:
			askedAround = f.lookAround(askedAround)
			if err := s.impatient(ctx); err != nil {
				return err
			}
			if f.isOverdue(overdueAfter) || s.holders.size < maxWorkers && f.hasMissing() {
				s.start(ctx, &s.holders, f.nextHolder())
			}
		case <-f.run.complete:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lookAround adds the neighbours that answered later than the first, or have the NAR by now. It returns when all were
// last asked.
func (f *Session) lookAround(asked time.Time) time.Time {
	if time.Since(asked) > HoldersFresh && !f.secret {
		f.Swarm.AskAround(f.Wanted)
		asked = time.Now()
	}
	f.join(f.Swarm.Known(f.Wanted))
	return asked
}

func newCrew() crew { return crew{ended: make(chan struct{})} }

// A Session is one NAR on its way: which blocks are here, which neighbours were asked for the others, which may be asked.
type Session struct {
	*Deps
	Wanted trust.Mapping
	draft  *spool.Draft
	secret bool  // no neighbour may learn that it is wanted; set by do before it starts anything
	blame  blame // changes between runs only
	uplink uplink

	mu       sync.Mutex // guards the rest
	picker   picker
	sources  sources
	swarming swarming
	proxies  proxies
	run      run
}

// A run is one attempt to get all blocks that are missing.
type run struct {
	complete chan struct{} // closed at its end; made by get, and not guarded by the mutex
	err      error         // the draft cannot be written, or the NAR cannot come in time
}

// New returns a fetch that writes into the draft. checked is the mapping as the sharing policy has checked it, and
// shared whether that lets other peers have it.
func New(of *Deps, m trust.Mapping, draft *spool.Draft, checked trust.Mapping, shared bool) *Session {
	return &Session{Deps: of, Wanted: m, draft: draft, sources: newSources(), proxies: proxies{asked: map[peer.ID]bool{}},
		picker:   newPicker(store.NumBlocks(m.NarSize()), m.NarHash(), of.Self, time.Now()),
		swarming: swarming{checked: checked, shared: shared, news: make(chan struct{})}}
}

// nextHolder returns a holder that has not been asked yet, or nil.
func (f *Session) nextHolder() *peers.Neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sources.next(time.Now())
}

// join adds holders, unless blocks are taken from a single one.
func (f *Session) join(holders []Holder) {
	var whole []*peers.Neighbour
	for _, h := range holders {
		if h.Receiving {
			f.Meet(h.Neighbour)
		} else {
			whole = append(whole, h.Neighbour)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nb := range byPromise(whole) {
		f.picker.swarm.drop(nb.ID)
		if !f.blame.comparing() && f.sources.isNew(nb) && f.Conduct.Takes(nb, f.Wanted) {
			f.sources.add(nb)
		}
	}
}

// readmit adds the holders found after no source was left, and lets holders that failed without a lie try again: a
// machine that changes from cable to radio is back under another address a moment later.
func (f *Session) readmit(holders []Holder) {
	f.mu.Lock()
	for _, h := range holders {
		f.sources.readmit(h.Neighbour.ID)
	}
	f.mu.Unlock()
	f.join(holders)
}

// noPeers reports whether there is no peer to ask.
func (f *Session) noPeers() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sources.all) == 0 && len(f.picker.swarm.members) == 0
}

// only makes holders, or with none all that are not excluded, the ones to ask in the next run.
func (f *Session) only(holders ...*peers.Neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources.only(holders...)
}

func (f *Session) missing() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.left
}

// state reports whether all blocks are here, or why they never will be.
func (f *Session) state() (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.left == 0, f.run.err
}

// hasMissing reports whether there is work for one more holder.
func (f *Session) hasMissing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.next < len(f.picker.blocks)
}

// isOverdue reports whether a block was expected longer ago than that.
func (f *Session) isOverdue(by time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.isOverdue(by, time.Now())
}

// contributors counts the blocks in the draft by the peer that vouches for them.
func (f *Session) contributors() map[peer.ID]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.contributors()
}

// A round holds the goroutines at work while a fetch runs. It is owned by get.
type round struct {
	*Session
	holders, partials, supply crew
	began                     time.Time
	progress                  progress
	blocks                    int // the number missing then
	before                    int // the number missing when no source was left, the last time
}

func (s *round) start(ctx context.Context, c *crew, nb *peers.Neighbour) bool {
	if nb != nil {
		c.start(func() { s.work(ctx, nb) })
	}
	return nb != nil
}

// fill starts the goroutines that should run. again means that the fetch may have ended meanwhile, or there is more to
// start; the error, that no source is left.
func (s *round) fill(ctx context.Context) (again bool, err error) {
	for !s.uplink.busy.Load() && s.start(ctx, &s.partials, s.nextPartial()) {
	}
	alone := s.holders.size == 0 && !s.start(ctx, &s.holders, s.nextHolder())
	free := s.supply.size == 0 || s.uplink.urged.Load() && !s.uplink.busy.Load()
	if free && (alone || s.crawls()) && s.startSupply(ctx, &s.supply, s.partials.size) {
		if !alone {
			s.shunProxies(s.wholeHolders()...)
		}
		return true, nil
	}
	if !alone || s.supply.size > 0 || s.partials.size > 0 && !s.stalled() {
		return false, nil
	}
	left := s.missing()
	if left == s.before || s.blame.comparing() {
		return false, fmt.Errorf("no neighbour is left that has it: %w", store.ErrNotFound)
	}
	s.before = left
	if !s.secret {
		s.readmit(s.Swarm.Holders(ctx, s.Wanted, true))
	}
	return true, nil
}

// crawls reports whether the holders would take so long for the rest of the NAR that an upstream is likely to be done
// in half the time.
func (s *round) crawls() bool {
	took := time.Since(s.began)
	if took < judgedAfter || len(s.Upstreams) == 0 {
		return false
	}
	rest, over := s.progress.remaining()
	if over < judgedAfter {
		left := s.missing()
		rest = remaining(took, s.blocks-left, left)
	}
	own := s.Throughput.Rate()
	return rest > crawlTime && (own == 0 || float64(s.Wanted.NarSize())/float64(own) < rest.Seconds()/2) // it begins at the beginning
}

// A crew is the goroutines that ask holders of a kind. It is owned by the goroutine that calls get.
type crew struct {
	size  int
	ended chan struct{}
}

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
