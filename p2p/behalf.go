package p2p

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/serve"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// DefaultBudget is how many bytes of NARs a day are fetched for neighbours: a dozen systems.
const DefaultBudget = 50 << 30

// behalf is what this node fetches from its upstreams because neighbours have asked for it.
type behalf struct {
	budget int64                             // bytes of NARs a day, in all; half of what others leave of it for one address
	failed *lru.Cache[store.Hash, time.Time] // what could not be fetched, and when; it is not tried again at once

	mu    sync.Mutex // guards the rest
	jobs  map[store.Hash]*job
	all   allowance
	each  *lru.Cache[netip.Addr, *allowance] // identities cost nothing, addresses a little more
	bytes int64                              // of NARs, since the start
}

// A job is a NAR that is being fetched for others.
type job struct {
	from   netip.Addr     // address of the first peer that asked
	lease  *time.Timer    // ends it, once no peer asks for its progress
	begun  chan struct{}  // closed when there is a flight, or will be none
	flight *fetch.Session // nil is none; may be read once begun is closed
	done   chan struct{}
}

// An allowance is what may still be spent, which grows back over a day.
type allowance struct {
	spent int64
	at    time.Time
}

// settle gives back what has grown until now, if budget is what there is in a day.
func (a *allowance) settle(budget int64, now time.Time) {
	if !a.at.IsZero() {
		a.spent = max(0, a.spent-int64(float64(budget)*now.Sub(a.at).Hours()/24))
	}
	a.at = now
}

func newBehalf(budget int64) *behalf {
	each := peers.NewCache[netip.Addr, *allowance](maxAskerAddrs)
	failed := peers.NewCache[store.Hash, time.Time](maxFailed)
	return &behalf{budget: budget, jobs: map[store.Hash]*job{}, each: each, failed: failed}
}

// spend reports whether neighbours at an address may have n bytes fetched. However many addresses one user has, half of
// the remaining budget stays for the next. The caller holds mu.
func (b *behalf) spend(from netip.Addr, n int64, now time.Time) bool {
	own, ok := b.each.Get(from)
	if !ok {
		own = &allowance{}
		b.each.Add(from, own)
	}
	own.settle(b.budget/2, now)
	b.all.settle(b.budget, now)
	others := max(0, b.all.spent-own.spent)
	if own.spent+n > (b.budget-others)/2 {
		return false
	}
	own.spent += n
	b.all.spent += n
	return true
}

// touch returns the job of a NAR, if there is one, and lets it go on for a while.
func (b *behalf) touch(nar store.Hash) *job {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[nar]
	if j != nil {
		j.lease.Reset(fetch.LeaseTime)
	}
	return j
}

// helps says whether this node asks its upstreams for others.
func (n *Node) helps() bool { return n.alone() == "" }

// alone returns the reason why this node asks its upstreams only for itself; "" if it asks for others, too.
func (n *Node) alone() string {
	switch {
	case len(n.cfg.Upstreams) == 0:
		return "it has no upstream"
	case n.cfg.NoCooperate:
		return "it does not cooperate (--no-cooperate)"
	case !n.Sharing():
		return "it shares nothing"
	case !n.upstreams.public():
		return "an upstream's URL has a user or a password"
	case n.lan.isMetered():
		return "it is on a metered network"
	case n.power.OnBattery():
		return "it runs on battery"
	}
	return ""
}

// AnswerUpstream asks the upstreams for a neighbour. What it asks is never passed on to other neighbours.
func (n *Node) AnswerUpstream(ctx context.Context, c serve.Client, bw *bufio.Writer, r wire.Request) error {
	if !n.helps() || !c.MayHelp() { // every question is a miss, unless it is found
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	ctx, cancel := context.WithTimeout(ctx, infoPatience*3/4) // so that the answer is in time
	defer cancel()
	m, err := n.upstreams.lookup(ctx, r.HashParts[0])
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, errDisbelieved) {
		return bw.WriteByte(byte(wire.VerdictNone))
	}
	if err != nil || !n.mayFetchFor(ctx, m) {
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	text, _, err := serve.ClaimText(m)
	if err != nil {
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	c.Found()
	_, err = bw.Write(wire.AppendVerdict(wire.VerdictYes, text))
	return err
}

// mayFetchFor reports whether a path that the upstreams have may be fetched for neighbours. One that was built here too
// could not be passed on.
func (n *Node) mayFetchFor(ctx context.Context, m trust.Mapping) bool {
	_, ok := n.server.May(m)
	return ok && !n.secrets.builtHere(ctx, m.Path().HashPart())
}

// AnswerFetch begins to fetch a NAR for a neighbour, or says how far that is.
func (n *Node) AnswerFetch(ctx context.Context, c serve.Client, bw *bufio.Writer, r wire.Request) error {
	hp := r.HashParts[0]
	if !n.helps() { // every question is a miss, unless it is found
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	here := func() bool { return n.cfg.Spool.Has(r.NAR) && n.server.Has(ctx, hp, r.NAR) }
	if here() {
		c.Found()
		return bw.WriteByte(byte(wire.VerdictHere))
	}
	j := n.behalf.touch(r.NAR)
	may, f := n.server.Partial(r) != nil, n.fetched.flight(hp)
	may = may && f != nil // it may have ended meanwhile
	if !may && (j != nil || f == nil) {
		f = n.fetchFor(ctx, c.Asker(), hp, r.NAR)
	} else if !may {
		f = nil
	}
	switch {
	case f != nil:
	case here(): // it has come meanwhile
		c.Found()
		return bw.WriteByte(byte(wire.VerdictHere))
	default:
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	c.Found()
	f.Urge()
	n.meetOn(f, c.Asker().ID)
	_, err := bw.Write(wire.AppendProgress(n.upstreams.downloaded(), n.upstreams.throughput.Rate()))
	return err
}

// meet makes a peer that asks about a NAR a member of its swarm, if the NAR is being received here: the peer may be
// about to receive it, too. It comes after the budget, because a member is asked for blocks, and so hears of it.
func (n *Node) meet(id peer.ID, hp store.HashPart) {
	if f := n.fetched.flight(hp); f != nil {
		n.meetOn(f, id)
	}
}

// meetOn makes a peer that asks for a NAR a member of the NAR's swarm.
func (n *Node) meetOn(f *fetch.Session, id peer.ID) {
	if nb := n.neighbours.get(id); nb != nil {
		f.Meet(nb)
	}
}

// fetchFor begins to fetch a NAR on behalf of a neighbour, if our own upstreams have signed it, and there is room and
// budget for it. It returns nil if it will not be fetched. If several neighbours ask at the same time, it is fetched
// once.
func (n *Node) fetchFor(ctx context.Context, who serve.Asker, hp store.HashPart, nar store.Hash) *fetch.Session {
	ctx, cancel := context.WithTimeout(ctx, peers.FetchPatience/2)
	defer cancel()
	m, err := n.upstreams.lookup(ctx, hp)
	if err != nil || m.NarHash() != nar || !n.mayFetchFor(ctx, m) || !n.background.begin() {
		return nil
	}
	life, end := context.WithTimeout(n.background.ctx, fetch.JobTimeout)
	j, mine := n.behalf.hire(who.Addr, m, end)
	if !mine {
		end()
		n.background.running.Done()
		if f := j.await(ctx); f != nil && f.Wanted.Path() == m.Path() {
			return f
		}
		return nil
	}
	f, err := n.newFlight(m)
	if err != nil {
		n.log.Debug("not fetched for a neighbour", zap.Stringer("peer", who.ID), zap.Stringer("path", m.Path()), zap.Error(err))
		close(j.begun)
		n.behalf.end(nar, j)
		end()
		n.background.running.Done()
		return nil
	}
	f.Urge()
	j.flight = f.Session
	close(j.begun)
	go func() {
		defer n.background.running.Done()
		defer end()
		defer n.behalf.end(nar, j)
		sp, err := n.fly(life, f)
		n.cfg.Observer.Landed(m, err)
		if err != nil {
			if !errors.Is(life.Err(), context.Canceled) { // no neighbour wanted it any more
				n.behalf.failed.Add(nar, time.Now())
			}
			n.log.Debug("not fetched for a neighbour", zap.Stringer("peer", who.ID), zap.Stringer("path", m.Path()), zap.Error(err))
			return
		}
		n.log.Debug("fetched for a neighbour", zap.Stringer("peer", who.ID), zap.Stringer("path", m.Path()), zap.Int64("size", m.NarSize()))
		sp.Close() // it stays in the spool for a while
	}()
	return f.Session
}

// hire returns the job of a NAR. If there was none, there is one now, it is the caller's, and cancel ends it; nil is that
// there is no room, or no budget.
func (b *behalf) hire(from netip.Addr, m trust.Mapping, cancel func()) (j *job, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[m.NarHash()]; j != nil {
		return j, false
	}
	if at, ok := b.failed.Get(m.NarHash()); ok && time.Since(at) < peers.ShunTime {
		return nil, false
	}
	own := 0
	for _, j := range b.jobs {
		if j.from == from {
			own++
		}
	}
	if len(b.jobs) >= maxJobs || own >= maxJobs/2 || !b.spend(from, m.NarSize(), time.Now()) {
		return nil, false
	}
	j = &job{from: from, lease: time.AfterFunc(fetch.LeaseTime, cancel), begun: make(chan struct{}), done: make(chan struct{})}
	b.jobs[m.NarHash()] = j
	b.bytes += m.NarSize()
	return j, true
}

// await returns the flight of a job, or nil if there is none.
func (j *job) await(ctx context.Context) *fetch.Session {
	if j == nil {
		return nil
	}
	select {
	case <-j.begun:
		return j.flight
	case <-ctx.Done():
		return nil
	}
}

// end ends the job of a NAR.
func (b *behalf) end(nar store.Hash, j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j.lease.Stop()
	delete(b.jobs, nar)
	close(j.done)
}

// awaitJob waits for a NAR that is being fetched for others already, if it is.
func (n *Node) awaitJob(ctx context.Context, m trust.Mapping) {
	tick := time.NewTicker(fetch.LeaseTime / 4)
	defer tick.Stop()
	for {
		j := n.behalf.touch(m.NarHash())
		if j == nil {
			return
		}
		select {
		case <-j.done:
			return
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// left is how many bytes of NARs may still be fetched for neighbours.
func (b *behalf) left(now time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.all
	a.settle(b.budget, now)
	return b.budget - a.spent
}

// total is how many bytes of NARs neighbours have asked for since the start.
func (b *behalf) total() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}
