package narserve

import (
	"context"
	"sync"
	"time"

	"narbor/store"
	"narbor/trust"
)

// stopLimit is how long Run waits for fetches and replies to end. A read from a file server that hangs takes no notice.
const stopLimit = 5 * time.Second

// Run keeps the accounts until ctx ends: it saves them every few minutes, and finds out which of the missed paths Nix
// has fetched itself. Then it ends all fetches that requests have begun, waits at most [stopLimit] for them and for
// replies with NARs, and saves the accounts last. It is called once.
func (s *Server) Run(ctx context.Context) error {
	counting, stop := context.WithCancel(context.WithoutCancel(ctx))
	var accounts sync.WaitGroup
	accounts.Go(func() { s.accounts.Run(counting, s.ownSize, s.log) })
	<-ctx.Done()
	var fetches sync.WaitGroup
	fetches.Go(s.ahead.close)
	fetches.Go(s.fetches.close)
	ended := make(chan struct{})
	go func() {
		fetches.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopLimit):
		s.log.Warn("a fetch or a reply does not end: what it reads from, or the client, may hang")
	}
	stop()
	accounts.Wait()
	return ctx.Err()
}

// Redirecting reports whether there are redirected requests that are still to follow their redirect. The server must
// listen until they have.
func (s *Server) Redirecting() bool { return s.arrivals.pending() }

// ownSize returns the NarSize of a path that is in this machine's own store and that an upstream has signed; 0 is none.
// If Nix missed it here, Nix has fetched it from elsewhere.
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
