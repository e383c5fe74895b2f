package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/spool"
)

// attribute takes the next step to find the peers that sent wrong blocks, when the whole NAR is here and wrong. It
// returns the NAR if that repaired it; otherwise nil, and then suspect blocks are missing again. See [blame].
func (s *Session) attribute(ctx context.Context, cause error) (*spool.NAR, error) {
	defer s.plan.restrictTo()
	s.leaveSwarm()
	blocks, present := s.plan.senders()
	var ids []peer.ID
	for _, nb := range present {
		ids = append(ids, nb.ID)
	}
	next := remedyFor(blocks, ids)
	if next.reference != "" {
		return s.compareWith(ctx, present[slices.Index(ids, next.reference)], blocks)
	}
	if next.guilty != "" {
		s.supply.blameSender(next.guilty, cause)
	}
	return nil, s.reread(next.reread, blocks)
}

// compareWith compares the blocks with the manifest of one holder, and fetches those that differ again from that holder
// alone. If the NAR is still wrong then, the holder vouched for all of it, and is blamed.
func (s *Session) compareWith(ctx context.Context, reference *peers.Neighbour, blocks []sender) (*spool.NAR, error) {
	manifest, err := reference.AskManifest(ctx, s.Wanted)
	if err != nil {
		s.failed(ctx, reference, err)
		if err := s.reread(sentBy(blocks, reference.ID), blocks); err != nil {
			return nil, err
		}
		return nil, ctx.Err()
	}
	other, err := differing(manifest, func(i int) (store.Hash, error) { return s.digest(s.draft, i) })
	if err == nil {
		err = s.reread(other, blocks)
	}
	if err != nil {
		return nil, err
	}
	s.blame.compare(manifest)
	defer s.blame.compare(nil)
	s.plan.restrictTo(reference)
	if err := s.get(ctx); err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		failures := 1 // the holder could not deliver the blocks of its manifest; get has logged why
		if errors.Is(err, store.ErrSlow) {
			failures = lied
		}
		s.plan.exclude(reference.ID, failures)
		return nil, ctx.Err()
	}
	sp, err := s.draft.Commit(s.Wanted.CheckNAR)
	if errors.Is(err, store.ErrCorrupt) {
		s.wrong(reference.ID, fmt.Errorf("vouched for all of it: %w", err))
		blocks, _ := s.plan.senders()
		return nil, s.reread(sentBy(blocks, reference.ID), blocks)
	}
	return sp, err
}

// leaveSwarm ends the exchange of blocks with the swarm, once the NAR is here and wrong.
func (s *Session) leaveSwarm() {
	s.supply.doubted = true
	s.plan.closeSwarm()
	s.content.close()
}

// reread makes blocks missing again, and remembers what they were. It is called while no run is on.
func (s *Session) reread(list []int, blocks []sender) error {
	hashes := make([]store.Hash, len(list))
	for k, i := range list {
		var err error
		if hashes[k], err = s.digest(s.draft, i); err != nil {
			return err
		}
	}
	for k, i := range list {
		s.blame.suspect(i, blocks[i], hashes[k])
	}
	s.plan.again(list)
	return nil
}

// blameSenders blames the senders of wrong blocks, now that the right NAR is here.
func (s *Session) blameSenders(nar io.ReaderAt) {
	found, _ := s.blame.senders(func(i int) (store.Hash, error) { return s.digest(nar, i) }) // a block that cannot be read blames no peer
	for _, from := range found {
		switch {
		case s.plan.hasLied(from.id):
		case from.relayed:
			s.Conduct.Distrust(from.id)
		default:
			s.supply.blameSender(from.id, errors.New("sent a block that is not of this NAR"))
		}
	}
}
