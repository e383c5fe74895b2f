package ask

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// Files asks all neighbours for a path that is the file, and returns what they claim: first the claim that most
// neighbours make, and at most [maxFileClaims]. Nothing but the NAR shows whether a claim is true. The error wraps
// [store.ErrNotFound] if there is none.
func (ls *Lookups) Files(ctx context.Context, f trust.File) ([]trust.Mapping, error) {
	known, ok := ls.files.known.Get(f)
	if !ok || !known.holds(ls.Neighbours.All()) {
		limit := time.NewTimer(peers.BusyTimeout)
		defer limit.Stop()
		select {
		case ls.files.turns <- struct{}{}:
			defer func() { <-ls.files.turns }()
		case <-limit.C:
			return nil, fmt.Errorf("%s: too many files are asked for: %w", f, store.ErrNotFound)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w: %w", f, store.ErrNotFound, ctx.Err())
		}
		known.at = time.Now()
		var all bool
		if known.claims, all = ls.askForFile(ctx, f, ls.Neighbours.All()); all {
			ls.files.known.Add(f, known)
		}
	}
	if len(known.claims) == 0 {
		return nil, fmt.Errorf("%s: no neighbour has it: %w", f, store.ErrNotFound)
	}
	return known.claims, nil
}

// askForFile asks neighbours, and waits for those that do not answer: for a moment if another claims to have the file,
// else until [peers.BusyTimeout], or [filePatience] if such waits have lost too much time. all reports whether each has
// answered.
func (ls *Lookups) askForFile(ctx context.Context, f trust.File, neighbours []*peers.Neighbour) (found []trust.Mapping, all bool) {
	ctx, cancel := context.WithCancel(ctx) // the end of the wait ends the questions
	defer cancel()
	start, patience := time.Now(), filePatience
	if ls.files.waits.Allows(start) {
		patience = peers.BusyTimeout
	}
	owed, replies := map[*peers.Neighbour]bool{}, make(chan fileReply, len(neighbours))
	for _, nb := range neighbours {
		if !nb.IsLate() {
			owed[nb] = true
			go func() { replies <- ls.askFile(ctx, nb, f) }()
		}
	}
	all = len(owed) == len(neighbours)
	claims := fileClaims{}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for len(owed) > 0 {
		select {
		case r := <-replies:
			delete(owed, r.from)
			all = all && r.answered
			if r.claims && len(claims) == 0 {
				timer.Reset(min(peers.InfoTimeout, time.Until(start.Add(patience))))
			}
			if r.claims {
				claims.add(r.m)
			}
		case <-timer.C:
			ls.markLate(owed, start)
			owed, all = nil, false
		case <-ctx.Done():
			owed, all = nil, false
		}
	}
	ls.files.waits.Lose(start.Add(filePatience), time.Now(), len(claims) > 0)
	return claims.first(), all
}

// markLate records that neighbours have not answered, unless they may be alive and busy.
func (ls *Lookups) markLate(silent map[*peers.Neighbour]bool, asked time.Time) {
	now := time.Now()
	for nb := range silent {
		if !ls.isBusy(nb, now.Sub(asked), 0) {
			nb.Late.CompareAndSwap(0, now.UnixNano())
		}
	}
}

// A fileClaim tells claims about a file apart.
type fileClaim struct {
	path store.Path
	nar  store.Hash
	size int64
}

// fileClaims has each claim once for each neighbour that makes it.
type fileClaims map[fileClaim][]trust.Mapping

func (c fileClaims) add(m trust.Mapping) {
	claim := fileClaim{m.Path(), m.NarHash(), m.NarSize()}
	c[claim] = append(c[claim], m)
}

// first returns the claims that most neighbours make.
func (c fileClaims) first() (out []trust.Mapping) {
	claims := slices.SortedFunc(maps.Values(c), func(a, b []trust.Mapping) int { return cmp.Compare(len(b), len(a)) })
	for _, made := range claims[:min(len(claims), maxFileClaims)] {
		out = append(out, made[0])
	}
	return out
}

type fileReply struct {
	from     *peers.Neighbour
	answered bool
	claims   bool          // to have the file, and that counts
	m        trust.Mapping // of the claim
}

// askFile returns a neighbour's answer. A claim counts if its path follows from the content, and the neighbour is
// relied on.
func (ls *Lookups) askFile(ctx context.Context, nb *peers.Neighbour, f trust.File) fileReply {
	text, err := nb.AskFile(ctx, f, peers.AskTimeout)
	if err != nil {
		ls.Log.Debug("neighbour did not answer", zap.Stringer("peer", nb.ID), zap.Error(err))
	} else {
		nb.Late.Store(0)
	}
	reply := fileReply{from: nb, answered: err == nil}
	if text == "" {
		return reply
	}
	m, err := ls.checkFile(f, text)
	if err != nil { // no honest peer says that
		ls.Ledger.CountRefused(err)
		ls.Ledger.Strike(nb.ID, err)
		return reply
	}
	reply.m, reply.claims = m, ls.Ledger.Unreliable(nb.Tally, m.Path().HashPart(), m.NarHash()) == ""
	return reply
}

// checkFile returns the mapping of a claim about a file. Its path must follow from the content address asked for.
func (ls *Lookups) checkFile(f trust.File, text string) (trust.Mapping, error) {
	info, err := store.ParseInfo(text)
	if err != nil {
		return trust.Mapping{}, err
	}
	if info.CA != f.String() || len(info.Signatures) > 0 {
		return trust.Mapping{}, fmt.Errorf("asked for %s, got %s: %w", f, info.Path, peers.ErrName)
	}
	return ls.Secrets.Trusted.Check(info) // without a signature the address must yield the path
}
