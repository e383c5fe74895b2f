package ask

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// Answer is one neighbour's answer to a question about a store path, for users that investigate why Nix got it or did
// not.
type Answer struct {
	ID        string  `json:"id"`
	Addr      string  `json:"addr"`
	Path      string  `json:"path"`      // that it claims to have; "" is "not here", whatever the reason
	Receiving bool    `json:"receiving"` // it is still receiving the NAR itself
	SignedBy  string  `json:"signedBy"`  // the trusted key of the verified signature; "" if it is not believed, or is content-addressed
	NarHash   string  `json:"narHash"`
	NarSize   int64   `json:"narSize"`
	Millis    float64 `json:"millis"`  // until it had answered
	Problem   string  `json:"problem"` // why it gave no answer, or one that is not believed; "" is none
	// Unreliable is why the answer is believed and yet not enough to tell Nix that the path can be had; "" if it is
	// enough.
	Unreliable string `json:"unreliable,omitempty"`
	Rate       int64  `json:"rate,omitempty"` // bytes a second that came from it of late, see [Slow]; 0 is unknown

	mapping trust.Mapping // if it is believed
}

// Believed says whether the neighbour has the path, and what it says of it can be believed.
func (a Answer) Believed() bool { return a.Path != "" && a.Problem == "" }

// Mapping returns the verified claim; the zero mapping if [Answer.Believed] is false.
func (a Answer) Mapping() trust.Mapping { return a.mapping }

// AskEach asks every neighbour by itself about a hash part, and returns their answers sorted by ID. Unlike
// [Lookups.Lookup] it waits for all of them, up to [peers.AskTimeout] each, and no neighbour is struck for its answer.
// There are no answers about a hash part that is kept from neighbours.
func (ls *Lookups) AskEach(ctx context.Context, hp store.HashPart) []Answer {
	if ls.Secrets.Check(ctx, hp) != nil {
		return []Answer{}
	}
	neighbours := ls.Neighbours.All()
	answers := make([]Answer, len(neighbours))
	var all sync.WaitGroup
	for i, nb := range neighbours {
		all.Go(func() {
			start := time.Now()
			replies, err := nb.AskAlone(ctx, []store.HashPart{hp})
			a := Answer{Problem: "does not answer"}
			if err == nil {
				a = ls.weigh(nb, hp, replies[0])
			}
			a.ID, a.Addr, a.Millis = nb.ID.String(), ls.AddrOf(nb.ID), float64(time.Since(start).Microseconds())/1000
			answers[i] = a
		})
	}
	all.Wait()
	slices.SortFunc(answers, func(a, b Answer) int { return cmp.Compare(a.ID, b.ID) })
	return answers
}

func (ls *Lookups) weigh(nb *peers.Neighbour, hp store.HashPart, r peers.Reply) Answer {
	if r.Text == "" {
		return Answer{}
	}
	info, err := store.ParseInfo(r.Text)
	if err == nil && info.Path.HashPart() != hp {
		err = fmt.Errorf("answers about %s instead", info.Path)
	}
	if err != nil {
		return Answer{Problem: peers.Bounded(err.Error())}
	}
	a := Answer{Path: info.Path.String(), Receiving: r.Receiving, NarHash: info.NarHash.String(), NarSize: info.NarSize}
	if a.mapping, err = ls.Secrets.Trusted.Check(info); err != nil {
		a.Problem = peers.Bounded(strings.TrimPrefix(err.Error(), a.Path+": "))
	}
	a.SignedBy = a.mapping.SignedBy()
	if a.Problem == "" {
		a.Unreliable, a.Rate = ls.Ledger.Unreliable(nb.Tally, hp, info.NarHash), nb.Rate(time.Now())
	}
	return a
}

// Largest returns the largest path that the neighbour has, of those that were found lately and those that are named.
func (ls *Lookups) Largest(ctx context.Context, nb *peers.Neighbour, paths []store.HashPart) (best trust.Mapping, err error) {
	for _, hp := range ls.findings.Keys() {
		if f, ok := ls.findings.Peek(hp); ok && f.isWhole(nb.ID) && f.Mapping.NarSize() > best.NarSize() {
			best = f.Mapping
		}
	}
	if paths = paths[:min(len(paths), maxCandidates)]; best.NarSize() < store.BlockSize && len(paths) > 0 {
		replies, err := nb.AskAlone(ctx, paths)
		if err != nil {
			return best, err
		}
		for i, r := range replies {
			if a := ls.weigh(nb, paths[i], r); a.Believed() && !a.Receiving && a.NarSize > best.NarSize() {
				best = a.mapping
			}
		}
	}
	if best.NarSize() == 0 {
		return best, errors.New("nothing is known that it has, to be fetched as a measure")
	}
	return best, nil
}
