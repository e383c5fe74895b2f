package serve

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// changing is a source with claims that change.
type changing struct {
	store.Source
	info atomic.Pointer[store.Info]
}

func (c *changing) Info(context.Context, store.HashPart) (store.Info, error) {
	return *c.info.Load(), nil
}

func TestSignaturesAreVerifiedAgainWhenAClaimOrTheKeysChange(t *testing.T) {
	s, other := trusttest.NewSigner(t), trusttest.NewSigner(t)
	info, _ := s.Sign(t, "path", p2ptest.Random(10))
	src := &changing{}
	src.info.Store(&info)
	sh := newSharer([]store.Source{src}, nil, trust.Policy{Keys: s.Keys})
	claim := func() error {
		_, err := sh.claim(t.Context(), info.Path.HashPart())
		return err
	}
	for range 2 {
		if err := claim(); err != nil {
			t.Fatalf("claim = %v", err)
		}
	}
	altered := info
	altered.NarSize++
	src.info.Store(&altered)
	if err := claim(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("claim of another size = %v, want ErrNotFound", err)
	}
	src.info.Store(&info)
	sh.policy.Keys = other.Keys
	if err := claim(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("claim under other keys = %v, want ErrNotFound", err)
	}
}
