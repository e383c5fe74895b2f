package narserve

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/trust"
)

// stubStore is this machine's own store.
type stubStore struct {
	store.Source
	info func(store.HashPart) (store.Info, error)
}

func (s stubStore) Info(_ context.Context, hp store.HashPart) (store.Info, error) { return s.info(hp) }

func TestMissedPathBuiltHereIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards asked: that time has passed orders nothing
		asked := 0
		unsigned := textClaim(t, "built", "x")
		own := stubStore{info: func(store.HashPart) (store.Info, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return unsigned, nil
		}}
		s := New(Config{Sources: []Source{local{src: own, keys: new(trust.Keys)}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		s.accounts.NotFound(unsigned.Path.HashPart(), store.ErrNotFound)
		time.Sleep(3 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if sum := s.accounts.Account().Sum(0); sum.ByNix != 0 || asked == 0 {
			t.Errorf("a path that was built here counts: %+v; the store was asked %d times", sum, asked)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}
