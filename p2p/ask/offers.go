package ask

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// offers sends signed claims to neighbours that have said that they do not have the path: they may have it without the
// signature, and share it from then on. A fetch waits for an offer under way, and a lookup only in [Lookups.OfferNow].
// Its methods may be called concurrently.
type offers struct {
	of    *common
	queue chan *offer

	mu      sync.Mutex // guards the rest
	made    *lru.Cache[store.HashPart, *offer]
	vain    *lru.Cache[peer.ID, *vain]
	running bool // offers are sent
}

// An offer is a mapping that is offered. done is closed when all neighbours have answered, or are not waited for.
type offer struct {
	m     trust.Mapping
	at    time.Time
	first time.Time        // when the mapping was offered first, of the offers that this one follows
	made  map[peer.ID]bool // to which neighbours, in all these offers; false: without an answer. offers.mu guards it
	done  chan struct{}
}

// follow makes the offer one to the neighbours that have come since the last one, and later to those without an answer.
// It reports whether there are any. The caller holds offers.mu.
func (o *offer) follow(last *offer, neighbours []*peers.Neighbour) (needed bool) {
	select {
	case <-last.done:
	default: // it is under way
		return false
	}
	o.first = last.first
	early := o.at.Before(last.at.Add(offerRetry))
	for _, nb := range neighbours {
		if answered, made := last.made[nb.ID]; made && (answered || early) {
			o.made[nb.ID] = answered
		} else {
			needed = true
		}
	}
	return needed
}

// finish lets fetches that wait for the offer go on.
func (o *offer) finish() { close(o.done) }

// An offered mapping is an offer with the claim that is sent of it.
type offered struct {
	*offer
	claim store.Info // zero: none is sent
}

// vain is how many offers in a row a neighbour has not taken, and until when it gets no more.
type vain struct {
	n     int
	until time.Time
}

func newOffers(of *common) *offers {
	return &offers{of: of, queue: make(chan *offer, offerQueue), made: lru.New[store.HashPart, *offer](maxOffered),
		vain: lru.New[peer.ID, *vain](maxOfferedTo)}
}

// offer has a mapping offered soon, unless that was done a moment ago, or no neighbour may have it. It does not wait.
func (o *offers) offer(m trust.Mapping) {
	neighbours := o.of.Neighbours.All()
	if m.SignedBy() == "" || o.of.Sharing == nil || !o.of.Sharing() || !o.of.Secrets.Shared.Trusts(m) || len(neighbours) == 0 {
		return
	}
	hp, now := m.Path().HashPart(), time.Now()
	next := &offer{m: m, at: now, first: now, made: map[peer.ID]bool{}, done: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.running {
		return
	}
	if last, ok := o.made.Get(hp); ok && is(last.m, m.NarHash(), m.NarSize()) && now.Before(last.first.Add(offerAgain)) {
		if !next.follow(last, neighbours) {
			return
		}
	}
	select {
	case o.queue <- next:
		o.made.Add(hp, next)
	default: // it is offered when it is asked for the next time
	}
}

// await waits for a moment for the answers to an offer of the path that is under way.
func (o *offers) await(ctx context.Context, m trust.Mapping) {
	o.mu.Lock()
	last, ok := o.made.Peek(m.Path().HashPart())
	o.mu.Unlock()
	if !ok {
		return
	}
	select {
	case <-last.done:
		return
	default:
	}
	timeout := time.NewTimer(time.Until(last.at.Add(offerPatience)))
	defer timeout.Stop()
	select {
	case <-last.done:
	case <-timeout.C:
	case <-ctx.Done():
	}
}

func (o *offers) run(ctx context.Context) error {
	o.mu.Lock()
	o.running = true
	o.mu.Unlock()
	defer o.end()
	for {
		select {
		case first := <-o.queue:
			o.send(ctx, o.batch(first))
		case <-ctx.Done():
			return nil
		}
	}
}

// end lets no fetch wait for an offer that is not sent.
func (o *offers) end() {
	o.mu.Lock()
	o.running = false
	o.mu.Unlock()
	for {
		select {
		case left := <-o.queue:
			left.finish()
		default:
			return
		}
	}
}

// batch returns an offer with those that are waiting, too.
func (o *offers) batch(first *offer) []*offer {
	batch := []*offer{first}
	for len(batch) < offersAtOnce {
		select {
		case next := <-o.queue:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// send offers a batch to all neighbours at once that lack it, and returns when they have answered.
func (o *offers) send(ctx context.Context, batch []*offer) {
	defer func() {
		for _, one := range batch {
			one.finish()
		}
	}()
	var open []offered
	for _, one := range batch {
		claim, err := o.claim(ctx, one.m)
		if err != nil {
			o.of.Log.Debug("not offered", zap.Stringer("path", one.m.Path()), zap.Error(err))
		}
		open = append(open, offered{one, claim})
	}
	var running sync.WaitGroup
	now := time.Now()
	for _, nb := range o.of.Neighbours.All() {
		lacking := o.lacking(open, nb.ID)
		if nb.IsLate() || !o.mayOffer(nb.ID, now) {
			o.unanswered(lacking, nb.ID)
		} else if len(lacking) > 0 {
			running.Go(func() { o.sendTo(ctx, nb, lacking) })
		}
	}
	running.Wait()
}

// lacking returns the offers of a batch that a neighbour is to get: it did not get them before, and is not known as a
// holder. From now on they count as made to it.
func (o *offers) lacking(batch []offered, nb peer.ID) (out []offered) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range batch {
		if _, made := c.made[nb]; made {
			continue
		}
		c.made[nb] = true
		if !c.claim.Path.IsZero() && !o.of.isHolder(c.m, nb) {
			out = append(out, c)
		}
	}
	return out
}

// claim returns the claim of a mapping in the form of an offer. The error is the reason for making none: neighbours are
// not asked about the path, or the claim is too long.
func (o *offers) claim(ctx context.Context, m trust.Mapping) (store.Info, error) {
	shared, err := o.of.Secrets.Shared.Check(m.Info()) // no other signature leaves this machine
	if err != nil {
		return store.Info{}, err
	}
	if err := o.of.Secrets.CheckLately(ctx, m.Path().HashPart()); err != nil {
		return store.Info{}, err
	}
	return wire.OfferOf(shared.Info())
}

func (o *offers) sendTo(ctx context.Context, nb *peers.Neighbour, batch []offered) {
	claims := make([]store.Info, len(batch))
	for i, c := range batch {
		claims[i] = c.claim
	}
	here, err := nb.Offer(ctx, claims, offerPatience)
	if err != nil {
		o.of.Log.Debug("neighbour has not answered all offers", zap.Stringer("peer", nb.ID), zap.Error(err))
	}
	for i, yes := range here {
		if yes {
			o.record(batch[i].m, nb.ID)
		}
		o.answered(nb.ID, yes)
	}
	left := batch[len(here):]
	for range left { // of these it took none either
		o.answered(nb.ID, false)
	}
	o.unanswered(left, nb.ID)
}

// unanswered lets offers be made to a neighbour once more: it was too busy to answer, or was not asked.
func (o *offers) unanswered(batch []offered, by peer.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range batch {
		c.made[by] = false
	}
}

func (o *offers) mayOffer(to peer.ID, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.vain.Get(to)
	return !ok || now.After(v.until)
}

// answered counts an answer: a neighbour that takes none of many gets no more for a while.
func (o *offers) answered(by peer.ID, yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.vain.Get(by)
	if !ok {
		v = &vain{}
		o.vain.Add(by, v)
	}
	if v.n++; yes {
		v.n = 0
	}
	if v.n >= maxVain {
		v.n, v.until = 0, time.Now().Add(vainPause)
	}
}

func (o *offers) record(m trust.Mapping, by peer.ID) {
	hp := m.Path().HashPart()
	o.mu.Lock() // neighbours answer at once
	defer o.mu.Unlock()
	f, ok := o.of.findings.Get(hp)
	if !ok || !is(f.Mapping, m.NarHash(), m.NarSize()) {
		f = &Finding{Mapping: m, found: time.Now()}
		o.of.findings.Add(hp, f)
	}
	f.add(by, false)
}
