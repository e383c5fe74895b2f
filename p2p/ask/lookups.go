package ask

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// Lookups asks neighbours about paths, and remembers their answers. It implements [fetch.Swarm] but for Assignee. Its
// methods may be called concurrently.
type Lookups struct {
	*common
	offers *offers
	files  *files
}

// New starts nothing.
func New(cfg Config) *Lookups {
	c := &common{Config: cfg, findings: lru.New[store.HashPart, *Finding](maxFindings)}
	return &Lookups{c, newOffers(c), newFiles()}
}

// Lookup asks all neighbours, and returns the first claim that can be believed. If a mapping is wanted, only its
// holders count, and Lookup waits for the answers of all neighbours, so that the finding has all holders; it waits for
// late neighbours only as long as there is no holder. Holders are collected beyond its end.
func (ls *Lookups) Lookup(ctx context.Context, hp store.HashPart, want *trust.Mapping) (*Finding, error) {
	neighbours := ls.Neighbours.All()
	if len(neighbours) == 0 {
		return nil, fmt.Errorf("%s: no neighbours: %w", hp, store.ErrNotFound)
	}
	l := newLookup(ls.common, hp, want, len(neighbours))
	l.ask(neighbours)
	return l.wait(ctx)
}

// Holders returns the neighbours that said that they have the NAR. It asks all neighbours if the last answers are too
// old, if a neighbour has joined since, or if again is set.
func (ls *Lookups) Holders(ctx context.Context, m trust.Mapping, again bool) []fetch.Holder {
	hp := m.Path().HashPart()
	ls.offers.await(ctx, m)
	f, ok := ls.findings.Get(hp)
	if !ok || again || !is(f.Mapping, m.NarHash(), m.NarSize()) || len(ls.connected(f)) == 0 {
		now, err := ls.Lookup(ctx, hp, &m)
		if err == nil {
			return ls.connected(now)
		}
		return ls.Known(m) // a holder that is busy answers late
	}
	if m.NarSize() > offeredSize {
		ls.offers.offer(m)
	}
	asked := f.asked()
	isNew := func(nb *peers.Neighbour) bool { return nb.Since.After(asked) }
	if m.NarSize() > refreshSize || time.Since(asked) > fetch.HoldersFresh || slices.ContainsFunc(ls.Neighbours.All(), isNew) {
		ls.refresh(ctx, f, m)
	}
	return ls.connected(f)
}

// refresh asks, for a moment, the neighbours that are not known to have the whole NAR: holders may be busy, and answer
// late.
func (ls *Lookups) refresh(ctx context.Context, f *Finding, m trust.Mapping) {
	others := slices.DeleteFunc(ls.Neighbours.All(), func(nb *peers.Neighbour) bool { return f.isWhole(nb.ID) })
	if len(others) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	l := &lookup{of: ls.common, subject: subject{hp: m.Path().HashPart(), want: &m}, news: make(chan struct{}, 1), f: f}
	l.ask(others)
	if _, err := l.wait(ctx); err == nil {
		f.askedNow()
	}
}

// Knows reports whether a neighbour has made a claim about a NAR that was believed.
func (ls *Lookups) Knows(m trust.Mapping) bool {
	f, ok := ls.findings.Peek(m.Path().HashPart())
	return ok && is(f.Mapping, m.NarHash(), m.NarSize())
}

// Known returns the known holders, without asking any neighbour.
func (ls *Lookups) Known(m trust.Mapping) []fetch.Holder {
	f, ok := ls.findings.Peek(m.Path().HashPart())
	if !ok || !is(f.Mapping, m.NarHash(), m.NarSize()) {
		return nil
	}
	return ls.connected(f)
}

// AskAround asks all neighbours about a NAR, so that Known finds its holders, and does not wait for the answers.
func (ls *Lookups) AskAround(m trust.Mapping) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // do not wait; the answers are collected all the same
	ls.Lookup(ctx, m.Path().HashPart(), &m)
}

// connected returns the holders of a finding that are still neighbours.
func (ls *Lookups) connected(f *Finding) []fetch.Holder {
	f.mu.Lock()
	ids := maps.Clone(f.holders)
	f.mu.Unlock()
	var out []fetch.Holder
	alone := true
	for id, receiving := range ids {
		nb := ls.Neighbours.Get(id)
		if nb == nil || !ls.Ledger.TakesFrom(nb.Tally, f.Mapping) {
			continue
		}
		out = append(out, fetch.Holder{Neighbour: nb, Receiving: receiving})
		_, aside := nb.Tally.Aside(time.Now())
		alone = alone && aside != ""
	}
	if alone { // none that is relied on
		return nil
	}
	return out
}

// TooSlow fails if the holders of a finding would take more than twice as long as the NAR may, at the rates at which
// they send just now. Holders of unknown rate are tried.
func (ls *Lookups) TooSlow(f *Finding) error {
	now, sum := time.Now(), int64(0)
	for _, h := range ls.connected(f) {
		rate := h.Neighbour.Rate(now)
		if rate == 0 {
			return nil
		}
		sum += rate
	}
	if !Slow(f.Mapping.NarSize(), sum) {
		return nil
	}
	return fmt.Errorf("%s: %w: %w: its holders send %d bytes a second", f.Mapping.Path(), store.ErrNotFound, store.ErrSlow, sum)
}

// Slow reports whether a NAR takes too long at a rate in bytes per second, for Nix to be told that it can be had. The
// rate 0 is unknown.
func Slow(size, rate int64) bool {
	return rate > 0 && float64(size)/float64(rate) > 2*store.FetchTime(size).Seconds()
}

// Told returns what a neighbour says that an upstream says, if it can be believed.
func (ls *Lookups) Told(nb *peers.Neighbour, hp store.HashPart, text string) (trust.Mapping, error) {
	info, err := parseClaim(hp, text)
	if err != nil {
		ls.Ledger.Strike(nb.ID, err)
		return trust.Mapping{}, err
	}
	return ls.Secrets.Trusted.Check(info) // what its keys believe, ours need not
}

// Offer has a mapping of an upstream offered to the neighbours, unless one of them is known as its holder.
func (ls *Lookups) Offer(m trust.Mapping) {
	if len(ls.Known(m)) == 0 {
		ls.offers.offer(m)
	}
}

// OfferNow has a mapping offered whether holders are known or not, waits for the answers for a moment, and then asks
// all neighbours for the NAR. It reports whether some have it now, and send fast enough.
func (ls *Lookups) OfferNow(ctx context.Context, m trust.Mapping) bool {
	hp := m.Path().HashPart()
	if ls.Secrets.CheckLately(ctx, hp) != nil {
		return false
	}
	ls.offers.offer(m)
	ls.offers.await(ctx, m)
	ctx, cancel := context.WithTimeout(ctx, offerPatience)
	defer cancel()
	f, err := ls.Lookup(ctx, hp, &m)
	return err == nil && len(ls.connected(f)) > 0 && ls.TooSlow(f) == nil
}

// RunOffers sends offers until ctx ends.
func (ls *Lookups) RunOffers(ctx context.Context) error { return ls.offers.run(ctx) }
