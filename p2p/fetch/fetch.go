package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/spool"
)

// Fetch receives the NAR: it fetches, and excludes peers that sent wrong blocks, until the NAR is right or no source is
// left. If secret is true, no neighbour may learn that it is wanted. If forOthers is true, only other machines have
// asked for it; then it is not rebuilt, because they could tell from the time that another version is here. Fetch is
// called once.
func (s *Session) Fetch(ctx context.Context, secret, forOthers bool) (sp *spool.NAR, err error) {
	start := time.Now()
	s.secret = secret
	if sp, err = s.prepare(ctx, forOthers); sp != nil || err != nil {
		return sp, s.named(err)
	}
	for sp == nil && err == nil {
		if err = s.get(ctx); err != nil {
			break
		}
		sp, err = s.draft.Commit(s.Wanted.CheckNAR)
		if errors.Is(err, store.ErrCorrupt) {
			sp, err = s.attribute(ctx, err)
		}
		if sp != nil {
			s.blameSenders(sp)
		} else if errors.Is(err, store.ErrMalformed) { // it is what the upstream signed all the same
			s.blameSenders(s.draft)
		}
	}
	s.account(start, err)
	if err != nil {
		return nil, s.named(err)
	}
	senders, _ := s.plan.senders()
	s.Log.Debug("fetched", zap.Stringer("path", s.Wanted.Path()), zap.Int64("size", s.Wanted.NarSize()),
		zap.Duration("dur", time.Since(start)), zap.Int("peers", countVouching(senders)))
	return sp, nil
}

// prepare takes the blocks on this machine's disk, and finds the holders of the rest. It returns the NAR if no more is
// needed, and fails if there is no source for the rest.
func (s *Session) prepare(ctx context.Context, forOthers bool) (*spool.NAR, error) {
	var wrong error
	if blocks := s.draft.Reuse(ctx); len(blocks) > 0 {
		s.plan.reuse(blocks)
		s.content.reuse(blocks)
		s.Log.Debug("an earlier fetch is continued", zap.Stringer("path", s.Wanted.Path()), zap.Int("blocks", len(blocks)))
	} else if !forOthers {
		var sp *spool.NAR
		sp, wrong = s.rebuild(ctx)
		if sp != nil || wrong != nil && !errors.Is(wrong, store.ErrCorrupt) {
			return sp, wrong
		}
	}
	if !s.secret {
		s.join(s.Swarm.Holders(ctx, s.Wanted, false))
	}
	if !s.secret && !s.hasSource() { // the holders that are known are distrusted, and others may have answered late
		s.join(s.Swarm.Holders(ctx, s.Wanted, true))
	}
	if !s.hasSource() {
		return nil, fmt.Errorf("no neighbour has it: %w", store.ErrNotFound)
	}
	if wrong != nil {
		return nil, s.repair(ctx)
	}
	return nil, nil
}

// hasSource reports whether there is a source for the blocks that are missing, or that no block is missing.
func (s *Session) hasSource() bool {
	members, _ := s.plan.swarm()
	return members || s.plan.missing() == 0 || len(s.Upstreams) > 0 || len(s.plan.holders()) > 0
}

// named adds the path to an error.
func (s *Session) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.Wanted.Path(), err)
}
