package main

import (
	"context"
	"errors"
	"fmt"

	"narbor/store"
	"narbor/store/nixstore"
	"narbor/trust"
)

// file finds a file by its content, whatever the name of its store path is: in the Nix store, or at neighbours. These are not asked
// about a file that is here, even if it may not be given away, nor if the store does not answer.
func (s *parts) file(ctx context.Context, f trust.File) ([]trust.Mapping, error) {
	own, absent, err := s.shares.file(ctx, f, trust.Policy{Keys: s.keys.public, Fetched: true})
	if absent {
		return s.node.Files(ctx, f)
	}
	return own, err
}

// file returns a path of the Nix store that is the file and may be given away. absent reports that no path is the file, or that there
// is no Nix store.
func (s *shares) file(ctx context.Context, f trust.File, may trust.Policy) (own []trust.Mapping, absent bool, err error) {
	parts, err := s.called(ctx, f.PathCalled)
	if err != nil {
		return nil, errors.Is(err, nixstore.ErrNoNix), err
	}
	return oneOf(ctx, s.sources[0], parts, may)
}

// oneOf returns one of the paths, if it is valid and may be given away. absent reports that none of them is valid.
func oneOf(ctx context.Context, src store.Source, parts []store.HashPart, may trust.Policy) (own []trust.Mapping, absent bool, err error) {
	none, absent := fmt.Errorf("no path of this machine: %w", store.ErrNotFound), true
	for _, hp := range parts {
		info, err := src.Info(ctx, hp)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, false, err
		}
		absent = absent && err != nil && !info.Ultimate // it has the claim of a damaged path, too
		if err == nil {
			var m trust.Mapping
			if m, err = may.Check(info); err == nil {
				return []trust.Mapping{m}, false, nil
			}
		}
		none = errors.Join(none, err)
	}
	return nil, absent, none
}

// called returns the paths of the Nix store that have the hash part which at gives for their name.
func (s *shares) called(ctx context.Context, at func(name string) store.HashPart) ([]store.HashPart, error) {
	nix, err := s.nix.open(ctx)
	if err != nil {
		return nil, err
	}
	return nix.Called(ctx, at)
}
