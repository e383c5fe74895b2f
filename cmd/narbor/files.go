package main

import (
	"context"
	"errors"
	"fmt"

	"narbor/store"
	"narbor/trust"
)

// file finds a file by its content, whatever the name of its store path is: in the Nix store, or at neighbours. These are not asked
// about a file that is here, even if it may not be given away.
func (s *parts) file(ctx context.Context, f trust.File) ([]trust.Mapping, error) {
	parts, err := s.shares.called(ctx, f.PathCalled)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	none, here := fmt.Errorf("%s: %w", f, store.ErrNotFound), false
	for _, hp := range parts {
		info, err := s.shares.sources[0].Info(ctx, hp)
		here = here || err == nil || info.Ultimate // even if it is damaged
		if err == nil {
			var m trust.Mapping
			if m, err = (trust.Policy{Keys: s.keys.public, Fetched: true}).Check(info); err == nil {
				return []trust.Mapping{m}, nil
			}
		}
		none = errors.Join(none, err)
	}
	if here {
		return nil, none
	}
	return s.node.Files(ctx, f)
}

// called returns the paths of the Nix store that have the hash part which at gives for their name.
func (s *shares) called(ctx context.Context, at func(name string) store.HashPart) ([]store.HashPart, error) {
	nix, err := s.nix.open(ctx)
	if err != nil {
		return nil, err
	}
	return nix.Called(ctx, at)
}
