package p2p

import (
	"context"
	"errors"
	"fmt"

	"narbor/store"
	"narbor/trust"
)

// A question tells a neighbour a hash part, and with it what this machine has, builds or wants. Most hash parts have to be
// told, because nothing is known of them before they are found. No neighbour is told a hash part of which this machine
// knows that neighbours cannot have it, or had better not know that it exists.

// errSecret says that no neighbour was asked.
var errSecret = errors.New("neighbours are not asked about it")

// secret returns an error that wraps errSecret and [store.ErrNotFound] if no neighbour is to hear of a hash part: it was
// built here, or all that this machine has of it, and has heard of it from its upstreams, is signed by private keys. The
// answer is nil if this machine's sources do not tell in time, even those that take no notice of a deadline.
func (n *Node) secret(ctx context.Context, hp store.HashPart) error {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	select {
	case n.ownAsked <- struct{}{}:
	case <-ctx.Done(): // as many earlier questions are stuck as there may be
		return nil
	}
	known := make(chan error, 1) // has room: it may be told too late
	go func() {
		defer func() { <-n.ownAsked }()
		known <- n.knownSecret(ctx, hp)
	}()
	select {
	case err := <-known:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-known: // it came at that very moment
		return err
	default:
		return nil
	}
}

func (n *Node) knownSecret(ctx context.Context, hp store.HashPart) error {
	private := false
	for _, src := range n.cfg.Share {
		info, err := store.InfoLately(ctx, src, hp)
		switch {
		case info.Ultimate: // even if it is damaged
			return fmt.Errorf("%s: %w: %w: %w", info.Path, store.ErrNotFound, errSecret, trust.ErrBuiltHere)
		case err != nil:
			continue
		case n.isPublic(info):
			return nil
		}
		private = private || n.isPrivate(info)
	}
	for _, u := range n.cfg.Upstreams {
		if info, ok := u.Recall(hp); ok {
			if n.isPublic(info) {
				return nil
			}
			private = private || n.isPrivate(info)
		}
	}
	if private {
		return fmt.Errorf("%s: %w: %w: only private keys have signed it", hp, store.ErrNotFound, errSecret)
	}
	return nil
}

// secretNAR is secret for a NAR of which a claim has been believed: one that a neighbour has made is no secret.
func (n *Node) secretNAR(ctx context.Context, m trust.Mapping) error {
	if f, ok := n.findings.Peek(m.Path().HashPart()); ok && is(f.mapping, m.NarHash(), m.NarSize()) {
		return nil
	}
	if info := m.Info(); !n.isPublic(info) && n.isPrivate(info) {
		return fmt.Errorf("%s: %w: %w: only private keys have signed it", m.Path(), store.ErrNotFound, errSecret)
	}
	return n.secret(ctx, m.Path().HashPart())
}

// isPublic reports whether a key of the sharing policy has signed a claim.
func (n *Node) isPublic(info store.Info) bool {
	m, err := n.cfg.ShareKeys.Check(info)
	return err == nil && m.SignedBy() != ""
}

// isPrivate reports whether a trusted key has signed a claim; the caller knows that none of the sharing policy has.
func (n *Node) isPrivate(info store.Info) bool {
	m, err := n.cfg.Trusted.Check(info)
	return err == nil && m.SignedBy() != ""
}

// builtHere reports whether one of this machine's sources says that a path was built here.
func (n *Node) builtHere(ctx context.Context, hp store.HashPart) bool {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	for _, src := range n.cfg.Share {
		if info, _ := src.Info(ctx, hp); info.Ultimate { // even if it is damaged
			return true
		}
	}
	return false
}
