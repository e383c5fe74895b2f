package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// An Assignment says which of this node and its neighbours asks the upstreams about a path, and downloads it for all.
type Assignment struct {
	Assignee string `json:"assignee"` // ID of the neighbour; "" is this node
	Alone    string `json:"alone"`    // why this node asks for itself without an assignment; "" if there was one
	Refuses  string `json:"refuses"`  // why this node would not do it for others; "" if it would
	// Candidates have the highest weight first: that one is the assignee, unless it is left out.
	Candidates []Candidate `json:"candidates"`
	// Patience is the number of seconds for which the assignee may receive nothing before this node downloads by
	// itself.
	Patience float64 `json:"patienceSeconds"`
}

// A Candidate is a machine that a path may be assigned to.
type Candidate struct {
	ID     string `json:"id"`     // "" is this node
	Weight string `json:"weight"` // of rendezvous hashing
	Out    string `json:"out"`    // why it is left out; "" if it is not
}

// Of is how many took part.
func (a Assignment) Of() (n int) {
	for _, c := range a.Candidates {
		if c.Out == "" {
			n++
		}
	}
	return n
}

// Assignment returns the peer that asks the upstreams about a hash part now, and why. No peer is asked for that.
func (px *Proxy) Assignment(hp store.HashPart) Assignment {
	a := Assignment{Alone: px.alone(), Refuses: px.alone(), Candidates: []Candidate{}, Patience: fetch.ProxyPatience.Seconds()}
	if len(px.cfg.Caches) > 0 && !px.cfg.NoCooperate {
		a.Alone = ""
	} else {
		return a
	}
	h := weightKey(hp)
	nb, others := px.Assignee(hp, nil)
	if nb != nil {
		a.Assignee = nb.ID.String()
	}
	if others == 0 {
		a.Alone = "no neighbour downloads for others"
	}
	if px.downloads.left(time.Now()) <= 0 && a.Refuses == "" {
		a.Refuses = "today's --upstream-budget is used up"
	}
	a.Candidates = append(a.Candidates, Candidate{Weight: weightText(px.cfg.Host.ID(), h)})
	for _, nb := range px.cfg.Lookups.Neighbours.All() {
		if nb.Has(px.protocol) {
			a.Candidates = append(a.Candidates, Candidate{ID: nb.ID.String(), Weight: weightText(nb.ID, h), Out: nb.LeftOut(time.Now())})
		}
	}
	slices.SortFunc(a.Candidates, func(x, y Candidate) int { return cmp.Compare(y.Weight, x.Weight) })
	return a
}

func weightText(id peer.ID, h store.Hash) string {
	return fmt.Sprintf("%016x", fetch.WeightSeed(id, h))
}

// Lookup asks the upstreams about a hash part, and returns a claim that can be believed. If neighbours do that
// for each other, the assignee asks for all of them. The error wraps [store.ErrNotFound] only if the upstreams have
// none. Neighbours that have the path without a signature are offered the claim. If an upstream does not answer, a
// claim that was kept counts if a neighbour then says that it has the NAR.
func (px *Proxy) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	m, err := px.lookup(ctx, hp)
	if err == nil {
		px.cfg.Lookups.Offer(m)
		return m, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		if kept, ok := px.upstreams.recall(hp); ok && px.cfg.Lookups.OfferNow(ctx, kept) {
			return kept, nil
		}
	}
	return m, err
}

func (px *Proxy) lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	nb, _ := px.Assignee(hp, nil)
	if nb == nil || px.cfg.Lookups.Secrets.Check(ctx, hp) != nil {
		return px.upstreams.lookup(ctx, hp)
	}
	within := infoPatience
	if px.upstreams.down() { // the neighbour's may be, too, and it does not know that yet
		within = peers.InfoTimeout
	}
	v, text, err := nb.AskInfo(ctx, hp, within)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			nb.Tally.BackOffOnce(time.Now())
		}
	case v == wire.VerdictNone:
		return trust.Mapping{}, fmt.Errorf("%s: no upstream has it, says neighbour %s: %w", hp, nb.ID, store.ErrNotFound)
	case v == wire.VerdictYes:
		if m, err := px.cfg.Lookups.Told(nb, hp, text); err == nil {
			return m, nil
		}
	}
	return px.upstreams.lookup(ctx, hp)
}

// Status is what a proxy knows of itself at a moment. Amounts are in bytes.
type Status struct {
	ForOthers  int64  `json:"forOthers"`  // bytes of NARs that neighbours have asked to be fetched from upstreams
	BudgetLeft int64  `json:"budgetLeft"` // bytes of NARs that may still be fetched for them
	Cooperates bool   `json:"cooperates"` // whether upstreams are asked for neighbours
	Alone      string `json:"alone"`      // why not
	Proxies    int    `json:"proxies"`    // neighbours that ask their upstreams for this node
}

// Status returns the state at this moment.
func (px *Proxy) Status() Status {
	alone := px.alone()
	return Status{px.downloads.total(), px.downloads.left(time.Now()), alone == "", alone, len(px.proxies())}
}
