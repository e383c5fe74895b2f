package p2p

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// errDisbelieved says that an upstream has a path, and that no trusted key has signed its narinfo.
var errDisbelieved = errors.New("not believed")

// lookupUpstream asks our own upstreams in order about a hash part, and returns the first claim that can be believed. The
// error wraps [store.ErrNotFound] only if all have been asked and have none; one that is down is not waited for.
func (n *Node) lookupUpstream(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	var failed, disbelieved error
	for _, u := range n.cfg.Upstreams {
		if err := u.Ready(); err != nil { // also if it has said so before: what it has could not be fetched
			failed = errors.Join(failed, err)
			continue
		}
		m, err := n.askUpstream(ctx, u, hp)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			failed = errors.Join(failed, err)
		} else if errors.Is(err, errDisbelieved) || errors.Is(err, store.ErrUnreadable) {
			disbelieved = err
		}
	}
	if failed != nil {
		return trust.Mapping{}, failed
	}
	if disbelieved != nil {
		return trust.Mapping{}, disbelieved
	}
	return trust.Mapping{}, fmt.Errorf("%s: no upstream has it: %w", hp, store.ErrNotFound)
}

// AskUpstream returns what an upstream says of a hash part, if it can be believed, and sees to it that it is kept.
func (n *Node) askUpstream(ctx context.Context, u *upstream.Cache, hp store.HashPart) (trust.Mapping, error) {
	info, err := u.Info(ctx, hp)
	if err != nil {
		return trust.Mapping{}, err
	}
	m, err := n.cfg.Trusted.Check(info)
	if err != nil {
		return trust.Mapping{}, fmt.Errorf("upstream %s: %w: %w: %w", u, store.ErrNotFound, errDisbelieved, err)
	}
	if err := u.Keep(info); err != nil {
		n.log.Debug("a mapping is not kept", zap.Stringer("path", m.Path()), zap.Error(err))
	}
	return m, nil
}
