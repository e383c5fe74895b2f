package narserve

import (
	"context"
	"slices"
	"sync"
	"time"

	"narbor/store"
)

// stopLimit is how long Run waits for fetches, replies and questions to end. A read from a file server that hangs takes
// no notice.
const stopLimit = 5 * time.Second

// Run keeps the accounts until ctx ends: it saves them every few minutes, and finds out which of the missed paths Nix
// has fetched itself. Then it ends all fetches that requests have begun, waits at most [stopLimit] for them, for
// replies with NARs and for the sources that work on a question, and saves the accounts last. It is called once.
func (s *Server) Run(ctx context.Context) error {
	counting, stop := context.WithCancel(context.WithoutCancel(ctx))
	var accounts sync.WaitGroup
	accounts.Go(func() { s.accounts.Run(counting, s.ownSize, s.log) })
	<-ctx.Done()
	var open sync.WaitGroup
	open.Go(s.ahead.close)
	open.Go(s.fetches.close)
	open.Go(s.resolver.close)
	ended := make(chan struct{})
	go func() {
		open.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopLimit):
		s.log.Warn("a fetch, a reply or a question does not end: this machine's store, a file server or the client may hang")
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
	own := slices.DeleteFunc(slices.Clone(s.sources), func(src *source) bool { return src.origin() != store.FromStore })
	m, _ := s.ask(ctx, question{hashPart: hp, timeout: mappingTimeout}, own) // without an answer its size is 0
	return m.NarSize()
}
