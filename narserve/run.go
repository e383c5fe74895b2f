package narserve

import (
	"context"

	"narbor/store"
	"narbor/trust"
)

// Run keeps the accounts until ctx ends: it saves them every few minutes and at the end, and finds out which of the missed
// paths Nix has fetched itself. When it returns, all fetches have ended that requests have begun. It is called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.fetches.close()
	defer s.ahead.close()
	return s.accounts.Run(ctx, s.ownSize, s.log)
}

// ownSize returns the NarSize of a path that is in this machine's own store and that an upstream has signed; 0 is none. If
// Nix missed it here, Nix has fetched it from elsewhere.
func (s *Server) ownSize(ctx context.Context, hp store.HashPart) int64 {
	for _, src := range s.sources {
		l, ok := src.Source.(local)
		if !ok {
			continue
		}
		if m, err := guard(func() (trust.Mapping, error) { return l.Lookup(ctx, hp) }); err == nil {
			return m.NarSize()
		}
	}
	return 0
}
