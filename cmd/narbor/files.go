package main

import (
	"context"
	"errors"
	"fmt"

	"narbor/store"
	"narbor/trust"
)

// file finds a file by its content, whatever the name of its store path is: in the Nix store.
func (s *parts) file(ctx context.Context, f trust.File) (trust.Mapping, error) {
	nix, err := s.shares.nix.open(ctx)
	if err != nil {
		return trust.Mapping{}, err
	}
	parts, err := nix.Called(ctx, f.PathCalled)
	if err != nil {
		return trust.Mapping{}, err
	}
	none := fmt.Errorf("%s: %w", f, store.ErrNotFound)
	for _, hp := range parts {
		info, err := s.shares.sources[0].Info(ctx, hp)
		if err == nil {
			var m trust.Mapping
			if m, err = (trust.Policy{Keys: s.keys.public, Fetched: true}).Check(info); err == nil {
				return m, nil
			}
		}
		none = errors.Join(none, err)
	}
	return trust.Mapping{}, none
}
