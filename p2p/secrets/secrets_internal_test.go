package secrets

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// absent is a path that no source has.
var absent = store.HashPartFromBytes([20]byte{1})

// A deadlineSource has nothing. It notes how long it had, at the most, for each question; an hour is no deadline.
type deadlineSource struct {
	store.Source
	infos chan time.Duration
}

func (d deadlineSource) Info(ctx context.Context, _ store.HashPart) (store.Info, error) {
	if end, ok := ctx.Deadline(); ok {
		d.infos <- time.Until(end)
	} else {
		d.infos <- time.Hour
	}
	return store.Info{}, store.ErrNotFound
}

// A lateSource answers after some time and ignores deadlines. It counts the waiting questions.
type lateSource struct {
	builderOf
	after   time.Duration
	waiting atomic.Int64
}

func (s *lateSource) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	time.Sleep(s.after)
	return s.builderOf.Info(ctx, hp)
}

func TestHungStoreDelaysNoQuestionForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &lateSource{after: time.Hour}
		builder := builderOf{built: store.HashPartFromBytes([20]byte{7})}
		s := New(Config{Sources: []store.Source{builder, src}})
		begun, questions := time.Now(), maxOwnAsked+10
		for range questions {
			start := time.Now()
			if err := s.Check(t.Context(), absent); !errors.Is(err, errSecret) || !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Check = %v, want that the store has not answered", err)
			}
			if took := time.Since(start); took > peers.BusyTimeout {
				t.Errorf("a question waits %v for the store, want at most %v", took, peers.BusyTimeout)
			}
		}
		most := time.Duration(questions)*peers.InfoTimeout + peers.MaxBusyWait
		if took := time.Since(begun); took > most+most/10 {
			t.Errorf("%d questions wait %v for the store, want at most about %v", questions, took, most)
		}
		if got := src.waiting.Load(); got > maxOwnAsked {
			t.Errorf("%d questions wait for a store that does not answer, want at most %d", got, maxOwnAsked)
		}
		if err := s.Check(t.Context(), builder.built); !errors.Is(err, trust.ErrBuiltHere) {
			t.Errorf("Check = %v beside a store that does not answer, want ErrBuiltHere from the one that does", err)
		}
		time.Sleep(2 * time.Hour) // until the source has answered
	})
}

// Nix's request waits in the same goroutine: Node.Lookup promises narserve to return when its context ends.
func TestQuestionToAHungStoreEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Sources: []store.Source{&lateSource{after: time.Hour}}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := s.CheckLately(ctx, absent); !errors.Is(err, errSecret) {
			t.Errorf("CheckLately = %v, want errSecret", err)
		}
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("CheckLately returned after %v, want 10ms", took)
		}
		time.Sleep(2 * time.Hour) // until the source has answered
	})
}

func TestQuestionWaitsForABusyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		built := store.HashPartFromBytes([20]byte{7})
		src := &lateSource{builderOf: builderOf{built: built}, after: peers.BusyTimeout - time.Millisecond}
		s := New(Config{Sources: []store.Source{src}})
		if err := s.Check(t.Context(), built); !errors.Is(err, trust.ErrBuiltHere) {
			t.Errorf("Check = %v, want ErrBuiltHere", err)
		}
		if err := s.Check(t.Context(), absent); err != nil {
			t.Errorf("Check = %v of a path that is not here, want nil", err)
		}
	})
}

// An interruptedSource ends the caller's context, and fails with its error.
type interruptedSource struct {
	store.Source
	cancel context.CancelFunc
}

func (s interruptedSource) Info(ctx context.Context, _ store.HashPart) (store.Info, error) {
	s.cancel()
	return store.Info{}, ctx.Err()
}

func TestPathIsSecretWhileItsSourceHasNotAnswered(t *testing.T) {
	for name, full := range map[string]bool{"interrupted": false, "with too many questions": true} {
		ctx, cancel := context.WithCancel(t.Context())
		s := New(Config{Sources: []store.Source{interruptedSource{cancel: cancel}}})
		if full {
			s.asked[0] = nil
			cancel()
		}
		if err := s.known(ctx, absent, store.Source.Info); !errors.Is(err, errSecret) || !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: known = %v, want errSecret", name, err)
		}
	}
}

// A builderOf is the source of one path that was built here.
type builderOf struct {
	store.Source
	built store.HashPart
}

func (b builderOf) Info(_ context.Context, hp store.HashPart) (store.Info, error) {
	if hp != b.built {
		return store.Info{}, store.ErrNotFound
	}
	return store.Info{Ultimate: true}, nil
}

// A rememberingSource was asked a moment ago.
type rememberingSource struct {
	store.Source
	t *testing.T
}

func (s rememberingSource) Info(context.Context, store.HashPart) (store.Info, error) {
	s.t.Error("the source is asked again")
	return store.Info{}, store.ErrNotFound
}

func (rememberingSource) InfoLately(context.Context, store.HashPart) (store.Info, error) {
	return store.Info{Ultimate: true}, nil
}

func TestStoreIsNotAskedTwiceForOneQuestion(t *testing.T) {
	s := New(Config{Sources: []store.Source{rememberingSource{t: t}}})
	if err := s.CheckLately(t.Context(), absent); !errors.Is(err, trust.ErrBuiltHere) {
		t.Errorf("CheckLately = %v, want ErrBuiltHere", err)
	}
}

// justBuilt is a source with a path that was built after its last answer.
type justBuilt struct{ store.Source }

func (justBuilt) Info(context.Context, store.HashPart) (store.Info, error) {
	return store.Info{Ultimate: true}, nil
}

func (justBuilt) InfoLately(context.Context, store.HashPart) (store.Info, error) {
	return store.Info{}, store.ErrNotFound
}

func TestStoreIsAskedAgainBeforeANeighbourHearsOfAPath(t *testing.T) {
	s := New(Config{Sources: []store.Source{justBuilt{}}})
	if err := s.Check(t.Context(), absent); !errors.Is(err, trust.ErrBuiltHere) {
		t.Errorf("Check = %v, want ErrBuiltHere", err)
	}
}

func TestStuckStoreIsAskedBrieflyWhatWasBuiltHere(t *testing.T) {
	src := deadlineSource{new(store.Mem), make(chan time.Duration, 1)}
	s := New(Config{Sources: []store.Source{src}})
	s.BuiltHere(t.Context(), absent)
	if d := <-src.infos; d > peers.InfoTimeout {
		t.Errorf("a source has %v, want at most %v", d, peers.InfoTimeout)
	}
}
