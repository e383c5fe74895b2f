package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/store"
	"narbor/store/damage"
	"narbor/store/rebase"
)

// oldPathTimeout bounds the questions about the other versions of a path.
const oldPathTimeout = time.Second

// whyRebuild returns how the path of a claim was rebuilt from another version of it, or if it is not here, how it would
// be. It returns nil if neither is known.
func (s *shares) whyRebuild(ctx context.Context, claim store.Info, here bool) *control.WhyRebuild {
	if claim.Path.IsZero() {
		return nil
	}
	outcome, known := s.rebuilds.Outcome(claim)
	if known && (here || errors.Is(outcome.Err, rebase.ErrDiffers)) {
		return rebuildOf(outcome, here, s.damage.List())
	}
	if here {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, oldPathTimeout)
	defer cancel()
	found, err := s.rebuilds.Candidates(ctx, claim)
	outcome = rebase.Outcome{Err: err}
	if err == nil {
		outcome.From = found[0].Old.Path
	}
	return rebuildOf(outcome, false, s.damage.List())
}

// rebuildOf returns an outcome in words. It was done, or is expected.
func rebuildOf(o rebase.Outcome, done bool, damaged []damage.Finding) *control.WhyRebuild {
	w := &control.WhyRebuild{From: o.From.String(), Done: done && o.Err == nil}
	isOld := func(f damage.Finding) bool { return f.Path == w.From && f.Where == store.Dir }
	switch {
	case o.Err == nil:
	case errors.Is(o.Err, store.ErrDamaged), errors.Is(o.Err, rebase.ErrDiffers) && slices.ContainsFunc(damaged, isOld):
		w.Problem = "the version of it that is here is damaged; see `narbor doctor`"
	case errors.Is(o.Err, context.DeadlineExceeded):
		w.Problem = "it took too long"
	default:
		w.Problem = o.Err.Error()
	}
	return w
}
