// Package secrets decides of which paths no neighbour may hear.
//
// A question tells a neighbour a hash part, and with it what this machine has, builds or wants. Most hash parts have to
// be told, because nothing is known of them before they are found. No neighbour is told a hash part of which this
// machine knows that neighbours cannot have it, or had better not know that it exists.
//
// It asks this machine's own sources, and what its upstreams have said before. A question to a source that hangs is a
// goroutine that outlasts its call; there are at most [maxOwnAsked] for each source.
package secrets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// errSecret says that no neighbour was asked.
var errSecret = errors.New("neighbours are not asked about it")

// errNotTold says that it is not known whether a path is secret.
var errNotTold = errors.New("this machine's store has not answered in time")

// maxOwnAsked bounds the questions to this machine's own sources before neighbours are asked, and so the goroutines of
// those that a hung file server never answers. Sources that are well answer within a millisecond.
const maxOwnAsked = 64

// Config has the sources and keys of a policy.
type Config struct {
	Sources   []store.Source    // of this machine
	Upstreams []*upstream.Cache // are not asked, but their earlier answers count
	Shared    *trust.Keys       // a path that one of these has signed is public
	Trusted   *trust.Keys       // a path that only these have signed is private
}

// A Policy knows of which paths no neighbour is to hear. Its methods may be called concurrently.
type Policy struct {
	Config
	asked []chan struct{} // for each source: one for each question that is put to it
	busy  peers.BusyWait  // for sources that answer late
}

// New starts nothing.
func New(cfg Config) *Policy {
	s := &Policy{Config: cfg}
	for range s.Sources {
		s.asked = append(s.asked, make(chan struct{}, maxOwnAsked))
	}
	return s
}

// Check returns an error that wraps errSecret and [store.ErrNotFound] if no neighbour is to hear of a hash part: it was
// built here, or all that this machine has of it, and has heard of it from its upstreams, is signed by private keys.
// The same error is returned if this machine's sources do not answer in time: the path may have been built here.
func (s *Policy) Check(ctx context.Context, hp store.HashPart) error {
	return s.ask(ctx, hp, store.Source.Info)
}

// CheckLately is Check within a request for which this machine's sources have been asked already.
func (s *Policy) CheckLately(ctx context.Context, hp store.HashPart) error {
	return s.ask(ctx, hp, func(src store.Source, ctx context.Context, hp store.HashPart) (store.Info, error) {
		return store.InfoLately(ctx, src, hp)
	})
}

// An infoOf asks a source about a hash part.
type infoOf func(store.Source, context.Context, store.HashPart) (store.Info, error)

// ask waits for the sources for [peers.BusyTimeout], or for [peers.InfoTimeout] if the budget of longer waits is spent.
// It returns in time even if a source ignores its deadline; the goroutine stays until that has answered, and holds one
// of the source's places.
func (s *Policy) ask(ctx context.Context, hp store.HashPart, info infoOf) error {
	start, wait := time.Now(), peers.InfoTimeout
	if s.busy.Allows(start) {
		wait = peers.BusyTimeout
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
	if late := start.Add(peers.InfoTimeout); time.Now().After(late) {
		s.busy.Lose(late, time.Now(), !errors.Is(err, errNotTold))
	}
	return err
}

// notTold returns the error for a hash part if a source has not answered before ctx ended.
func notTold(ctx context.Context, hp store.HashPart) error {
	return fmt.Errorf("%s: %w: %w: %w: %w", hp, store.ErrNotFound, errSecret, errNotTold, ctx.Err())
}

func (s *Policy) known(ctx context.Context, hp store.HashPart, infoOf infoOf) error {
	private := false
	for i, src := range s.Sources {
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
	for _, u := range s.Upstreams {
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

// CheckNAR is Check for a NAR of which this machine has believed a claim that no neighbour has made.
func (s *Policy) CheckNAR(ctx context.Context, m trust.Mapping) error {
	if info := m.Info(); !s.isPublic(info) && s.isPrivate(info) {
		return fmt.Errorf("%s: %w: %w: only private keys have signed it", m.Path(), store.ErrNotFound, errSecret)
	}
	return s.Check(ctx, m.Path().HashPart())
}

// isPublic reports whether a key of the sharing policy has signed a claim.
func (s *Policy) isPublic(info store.Info) bool {
	m, err := s.Shared.Check(info)
	return err == nil && m.SignedBy() != ""
}

// isPrivate reports whether a trusted key has signed a claim; the caller knows that none of the sharing policy has.
func (s *Policy) isPrivate(info store.Info) bool {
	m, err := s.Trusted.Check(info)
	return err == nil && m.SignedBy() != ""
}

// BuiltHere reports whether one of this machine's sources says that a path was built here.
func (s *Policy) BuiltHere(ctx context.Context, hp store.HashPart) bool {
	ctx, cancel := context.WithTimeout(ctx, peers.InfoTimeout)
	defer cancel()
	for _, src := range s.Sources {
		if info, _ := src.Info(ctx, hp); info.Ultimate { // even if it is damaged
			return true
		}
	}
	return false
}
