package serve

import (
	"bufio"
	"context"
	"errors"

	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// reserveOf returns the number of misses that a request must leave. Claims, offers and files leave some for blocks.
func reserveOf(k wire.Kind) int {
	if k == wire.AskOffer || k == wire.AskFile {
		return narMisses
	}
	return 0
}

// answerOffer keeps the offered signature if it is good for the path, and then answers as to a question about the path.
// An offer costs a miss until the path is shared: that bounds the verifications. The claim is verified after the
// lookup, whether the path is here or not: so neither the answer nor its time tells a peer without a signature that
// counts here more than a question would.
func (srv *Server) answerOffer(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	hp, nar := r.HashParts[0], r.Offer.NarHash
	if !srv.hasWhole(ctx, hp, nar) && (!srv.take(ctx, c, r.Offer) || !srv.hasWhole(ctx, hp, nar)) {
		return bw.WriteByte(0)
	}
	c.quota.found()
	return bw.WriteByte(1)
}

// hasWhole reports whether a path is shared with that NAR, and not still being received.
func (s *sharer) hasWhole(ctx context.Context, hp store.HashPart, nar store.Hash) bool {
	c, err := s.claim(ctx, hp)
	return err == nil && c.m.NarHash() == nar && (s.arriving == nil || c.src != s.arriving || s.arriving.Has(nar))
}

// take keeps the signatures of an offer that are good for a path as one of the sources has it.
func (srv *Server) take(ctx context.Context, c Client, offer store.Info) bool {
	m, err := srv.policy.Keys.Check(offer)
	if err != nil || m.SignedBy() == "" || srv.cfg.Keep == nil {
		return false
	}
	info, ok := srv.signable(ctx, m)
	if !ok {
		return false
	}
	if err := srv.cfg.Keep(info, m.Info().Signatures, c.tally.ID.String()); err != nil {
		srv.cfg.Log.Debug("an offered signature is not kept", zap.Stringer("path", info.Path), zap.Error(err))
		return false
	}
	srv.cfg.Log.Debug("neighbour has offered a signature", zap.Stringer("peer", c.tally.ID), zap.Stringer("path", info.Path))
	return true
}

// signable returns the claim of the source that has the path of an offer, if the offered signature is one of that
// claim: it is verified over the NarHash, NarSize and references that the source has recorded. There is none for a path
// that was built here, even if another source has it.
func (srv *Server) signable(ctx context.Context, offer trust.Mapping) (store.Info, bool) {
	for _, src := range srv.cfg.Sources {
		info, err := src.Info(ctx, offer.Path().HashPart())
		if info.Ultimate || err != nil && !errors.Is(err, store.ErrNotFound) {
			return store.Info{}, false
		}
		if err != nil {
			continue
		}
		signed := info
		signed.Signatures = offer.Info().Signatures
		if m, err := srv.policy.Check(signed); err == nil && m.SignedBy() != "" {
			return info, true
		}
	}
	return store.Info{}, false
}
