package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// errDisbelieved says that an upstream has a path, and that no trusted key has signed its narinfo.
var errDisbelieved = errors.New("not believed")

// upstreams are the caches on the internet that this machine asks. Its methods may be called concurrently.
type upstreams struct {
	caches  []*upstream.Cache
	trusted *trust.Keys
	log     *zap.Logger
}

// lookup asks our own upstreams in order about a hash part, and returns the first claim that can be believed. The error
// wraps [store.ErrNotFound] only if all have been asked and have none that is believed; one that is down is not waited
// for.
func (ups *upstreams) lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	var failed, disbelieved error
	for _, u := range ups.caches {
		if err := u.Ready(); err != nil { // also if it has said so before: what it has could not be fetched
			failed = errors.Join(failed, err)
			continue
		}
		m, err := ups.ask(ctx, u, hp)
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

// recall returns what an upstream has said of a hash part before, if it can be believed. None is asked.
func (ups *upstreams) recall(hp store.HashPart) (trust.Mapping, bool) {
	for _, u := range ups.caches {
		if info, ok := u.Recall(hp); ok {
			if m, err := ups.trusted.Check(info); err == nil {
				return m, true
			}
		}
	}
	return trust.Mapping{}, false
}

// ask returns what an upstream says of a hash part, if it can be believed, and sees to it that it is kept.
func (ups *upstreams) ask(ctx context.Context, u *upstream.Cache, hp store.HashPart) (trust.Mapping, error) {
	info, err := u.Info(ctx, hp)
	if err != nil {
		return trust.Mapping{}, err
	}
	m, err := ups.trusted.Check(info)
	if err != nil {
		return trust.Mapping{}, fmt.Errorf("upstream %s: %w: %w: %w", u, store.ErrNotFound, errDisbelieved, err)
	}
	if err := u.Keep(info); err != nil {
		ups.log.Debug("a mapping is not kept", zap.Stringer("path", m.Path()), zap.Error(err))
	}
	return m, nil
}

// down reports whether none of them is taken to answer.
func (ups *upstreams) down() bool {
	return !slices.ContainsFunc(ups.caches, func(u *upstream.Cache) bool { return !u.Down() })
}

// public reports whether there are upstreams, and neighbours could ask all of them just as well.
func (ups *upstreams) public() bool {
	for _, u := range ups.caches {
		if u.Private() { // then what another has is not to be told apart
			return false
		}
	}
	return len(ups.caches) > 0
}

// downloaded returns the number of bytes, before unpacking, that have come from them; it begins anew after
// [store.MaxNarSize].
func (ups *upstreams) downloaded() (sum int64) {
	for _, u := range ups.caches {
		sum += u.Received()
	}
	const step = 16 << 10 // the exact sizes of archives are private
	return sum / step * step % store.MaxNarSize
}
