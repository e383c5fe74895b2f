package receive

import (
	"context"
	"errors"
	"fmt"

	"narbor/p2p/ask"
	"narbor/p2p/fetch"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// Config is what downloads need of the node. All fields are required.
type Config struct {
	*Fetched
	Server   *serve.Server // passes on what arrives
	Lookups  *ask.Lookups
	Sessions *fetch.Deps
}

// Downloads receives NARs into the spool, for this machine or for others. Its methods may be called concurrently.
type Downloads struct{ Config }

// New starts nothing.
func New(cfg Config) *Downloads { return &Downloads{cfg} }

// An Arrival is a NAR that is being received, by one call of its Fetch.
type Arrival struct {
	*fetch.Session
	draft *spool.Draft
	of    *Downloads
}

// Begin begins to receive a NAR; others may ask for its blocks from then on, until the caller calls End. It fails with
// an error that wraps [store.ErrNotFound] if that NAR is being received already, and [store.ErrNoSpace] if the spool is
// full.
func (d *Downloads) Begin(m trust.Mapping) (*Arrival, error) {
	draft, err := d.spool.Resume(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		d.Server.CloseIdle(0) // the spool cannot clear out archives that are open for neighbours
		draft, err = d.spool.Resume(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	shared, ok := d.Server.May(m)
	a := &Arrival{d.Sessions.NewSession(m, draft, shared, ok), draft, d}
	// Before others are asked: so that of two nodes that begin at once, one sees the other.
	if !d.begin(a.Session) {
		draft.Keep()
		return nil, fmt.Errorf("%s: it is being received already: %w", m.Path(), store.ErrNotFound)
	}
	return a, nil
}

// End ends what Begin has begun: neighbours get the NAR from the spool from then on. sp is nil if it has not come; then
// its blocks stay in the spool for the next fetch.
func (a *Arrival) End(sp *spool.NAR) {
	if sp != nil {
		a.of.add(a.Wanted)
		if a.InDemand() {
			a.of.Server.Offer(a.Wanted, sp)
		}
	}
	a.draft.Keep() // before end: the next fetch is to find it
	a.of.end(a.Session)
}

// IsSecret reports whether no neighbour may learn that a NAR is wanted.
func (d *Downloads) IsSecret(ctx context.Context, m trust.Mapping) bool {
	return !d.Lookups.Knows(m) && d.Lookups.Secrets.CheckNAR(ctx, m) != nil
}

// Spooled makes a NAR that is in the spool known to neighbours as that of a path, too. It returns false if it is not
// there.
func (d *Downloads) Spooled(m trust.Mapping) bool {
	sp, ok := d.spool.Get(m.NarHash())
	if !ok {
		return false
	}
	defer sp.Close()
	if m.CheckNAR(sp) != nil {
		return false
	}
	d.add(m)
	return true
}
