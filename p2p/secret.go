package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// A question tells a neighbour a hash part, and with it what this machine has, builds or wants. Most hash parts have to be
// told, because nothing is known of them before they are found. No neighbour is told a hash part of which this machine
// knows that neighbours cannot have it, or had better not know that it exists.

// errSecret says that no neighbour was asked.
var errSecret = errors.New("neighbours are not asked about it")

// errNotTold says that it is not known whether a path is secret.
var errNotTold = errors.New("this machine's store has not answered in time")

// secrets knows of which paths no neighbour is to hear. Its methods may be called concurrently.
type secrets struct {
	sources            []store.Source // of this machine
	upstreams          []*upstream.Cache
	shareKeys, trusted *trust.Keys
	asked              []chan struct{} // for each source: one for each question that is put to it
	busy               busyWait        // for sources that answer late
}

func newSecrets(cfg Config) *secrets {
	s := &secrets{sources: cfg.Sharing.Sources, upstreams: cfg.Upstreams.Caches, shareKeys: cfg.Sharing.Keys, trusted: cfg.Trusted}
	for range s.sources {
		s.asked = append(s.asked, make(chan struct{}, maxOwnAsked))
	}
	return s
}

// check returns an error that wraps errSecret and [store.ErrNotFound] if no neighbour is to hear of a hash part: it was
// built here, or all that this machine has of it, and has heard of it from its upstreams, is signed by private keys. The
// same error is returned if this machine's sources do not answer in time: the path may have been built here.
func (s *secrets) check(ctx context.Context, hp store.HashPart) error {
	return s.ask(ctx, hp, store.Source.Info)
}

// checkLately is check within a request for which this machine's sources have been asked already.
func (s *secrets) checkLately(ctx context.Context, hp store.HashPart) error {
	return s.ask(ctx, hp, func(src store.Source, ctx context.Context, hp store.HashPart) (store.Info, error) {
		return store.InfoLately(ctx, src, hp)
	})
}

// An infoOf asks a source about a hash part.
type infoOf func(store.Source, context.Context, store.HashPart) (store.Info, error)

// ask waits for the sources for busyTimeout, or for infoTimeout if the budget of longer waits is spent. It returns in time
// even if a source ignores its deadline.
func (s *secrets) ask(ctx context.Context, hp store.HashPart, info infoOf) error {
	start, wait := time.Now(), infoTimeout
	if s.busy.allows(start) {
		wait = busyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	known := make(chan error, 1) // has room: it may be told too late
	go func() { known <- s.known(ctx, hp, info) }()
	var err error
	select {
	case err = <-known:
	case <-ctx.Done():
		select {
		case err = <-known: // it came at that very moment
		default:
			err = notTold(ctx, hp)
		}
	}
	if late := start.Add(infoTimeout); time.Now().After(late) {
		s.busy.lose(late, time.Now(), !errors.Is(err, errNotTold))
	}
	return err
}

// notTold returns the error for a hash part if a source has not answered before ctx ended.
func notTold(ctx context.Context, hp store.HashPart) error {
	return fmt.Errorf("%s: %w: %w: %w: %w", hp, store.ErrNotFound, errSecret, errNotTold, ctx.Err())
}

func (s *secrets) known(ctx context.Context, hp store.HashPart, infoOf infoOf) error {
	private := false
	for i, src := range s.sources {
		select {
		case s.asked[i] <- struct{}{}:
		case <-ctx.Done(): // as many earlier questions are stuck at this source as there may be
			return notTold(ctx, hp)
		}
		info, err := infoOf(src, ctx, hp)
		<-s.asked[i]
		switch {
		case info.Ultimate: // even if it is damaged
			return fmt.Errorf("%s: %w: %w: %w", info.Path, store.ErrNotFound, errSecret, trust.ErrBuiltHere)
		case err != nil && ctx.Err() != nil:
			return notTold(ctx, hp)
		case err != nil:
			continue
		case s.isPublic(info):
			return nil
		}
		private = private || s.isPrivate(info)
	}
	for _, u := range s.upstreams {
		if info, ok := u.Recall(hp); ok {
			if s.isPublic(info) {
				return nil
			}
			private = private || s.isPrivate(info)
		}
	}
	if private {
		return fmt.Errorf("%s: %w: %w: only private keys have signed it", hp, store.ErrNotFound, errSecret)
	}
	return nil
}

// checkNAR is check for a NAR of which this machine has believed a claim that no neighbour has made.
func (s *secrets) checkNAR(ctx context.Context, m trust.Mapping) error {
	if info := m.Info(); !s.isPublic(info) && s.isPrivate(info) {
		return fmt.Errorf("%s: %w: %w: only private keys have signed it", m.Path(), store.ErrNotFound, errSecret)
	}
	return s.check(ctx, m.Path().HashPart())
}

// isPublic reports whether a key of the sharing policy has signed a claim.
func (s *secrets) isPublic(info store.Info) bool {
	m, err := s.shareKeys.Check(info)
	return err == nil && m.SignedBy() != ""
}

// isPrivate reports whether a trusted key has signed a claim; the caller knows that none of the sharing policy has.
func (s *secrets) isPrivate(info store.Info) bool {
	m, err := s.trusted.Check(info)
	return err == nil && m.SignedBy() != ""
}

// builtHere reports whether one of this machine's sources says that a path was built here.
func (s *secrets) builtHere(ctx context.Context, hp store.HashPart) bool {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	for _, src := range s.sources {
		if info, _ := src.Info(ctx, hp); info.Ultimate { // even if it is damaged
			return true
		}
	}
	return false
}
