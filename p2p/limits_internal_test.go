package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/trust"
)

// numbered returns a different address for each i.
func numbered(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
}

func TestMemoriesThatPeersFillAreBounded(t *testing.T) {
	n, _ := runNode(t, newSigner(t), nil)
	parts := words(0, maxFindings+10)
	for name, m := range map[string]struct {
		limit int
		add   func(i int)
		size  func() int
	}{
		"holders of paths":        {maxFindings, func(i int) { n.lookups.findings.Add(parts[i], nil) }, n.lookups.findings.Len},
		"claims of received NARs": {maxFindings, func(i int) { n.downloads.infos.Add(parts[i], store.Info{}) }, n.downloads.infos.Len},
		"paths that Nix missed":   {maxWanted, func(i int) { n.visits.wanted.Add(parts[i], time.Time{}) }, n.visits.wanted.Len},
		"failed downloads": {maxFailed, func(i int) {
			n.proxy.jobs.failed.Add(sha256.Sum256([]byte{byte(i >> 8), byte(i)}), time.Time{})
		}, n.proxy.jobs.failed.Len},
		"addresses that had downloads": {maxAskerAddrs, func(i int) { n.proxy.jobs.spend(numbered(i), 0, time.Time{}) },
			n.proxy.jobs.each.Len},
	} {
		for i := range m.limit + 10 {
			m.add(i)
		}
		if got := m.size(); got != m.limit {
			t.Errorf("%s: %d are remembered, want %d", name, got, m.limit)
		}
	}
}

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
		s := newSecrets(Config{Sharing: SharingConfig{Sources: []store.Source{builder, src}}})
		begun, questions := time.Now(), maxOwnAsked+10
		for range questions {
			start := time.Now()
			if err := s.check(t.Context(), partA); !errors.Is(err, errSecret) || !errors.Is(err, store.ErrNotFound) {
				t.Errorf("check = %v, want that the store has not answered", err)
			}
			if took := time.Since(start); took > busyTimeout {
				t.Errorf("a question waits %v for the store, want at most %v", took, busyTimeout)
			}
		}
		most := time.Duration(questions)*infoTimeout + maxBusyWait
		if took := time.Since(begun); took > most+most/busyWaitRefill {
			t.Errorf("%d questions wait %v for the store, want at most about %v", questions, took, most)
		}
		if got := src.waiting.Load(); got > maxOwnAsked {
			t.Errorf("%d questions wait for a store that does not answer, want at most %d", got, maxOwnAsked)
		}
		if err := s.check(t.Context(), builder.built); !errors.Is(err, trust.ErrBuiltHere) {
			t.Errorf("check = %v beside a store that does not answer, want ErrBuiltHere from the one that does", err)
		}
		time.Sleep(2 * time.Hour) // until the source has answered
	})
}

func TestQuestionWaitsForABusyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		built := store.HashPartFromBytes([20]byte{7})
		src := &lateSource{builderOf: builderOf{built: built}, after: busyTimeout - time.Millisecond}
		s := newSecrets(Config{Sharing: SharingConfig{Sources: []store.Source{src}}})
		if err := s.check(t.Context(), built); !errors.Is(err, trust.ErrBuiltHere) {
			t.Errorf("check = %v, want ErrBuiltHere", err)
		}
		if err := s.check(t.Context(), partA); err != nil {
			t.Errorf("check = %v of a path that is not here, want nil", err)
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
		s := newSecrets(Config{Sharing: SharingConfig{Sources: []store.Source{interruptedSource{cancel: cancel}}}})
		if full {
			s.asked[0] = nil
			cancel()
		}
		if err := s.known(ctx, partA, store.Source.Info); !errors.Is(err, errSecret) || !errors.Is(err, store.ErrNotFound) {
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
	s := newSecrets(Config{Sharing: SharingConfig{Sources: []store.Source{rememberingSource{t: t}}}})
	if err := s.checkLately(t.Context(), partA); !errors.Is(err, trust.ErrBuiltHere) {
		t.Errorf("checkLately = %v, want ErrBuiltHere", err)
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

func TestStoreIsAskedAgainBeforeAStrangerHearsOfAPath(t *testing.T) {
	s := newSecrets(Config{Sharing: SharingConfig{Sources: []store.Source{justBuilt{}}}})
	if err := s.check(t.Context(), partA); !errors.Is(err, trust.ErrBuiltHere) {
		t.Errorf("check = %v, want ErrBuiltHere", err)
	}
}

func TestStuckStoreIsAskedBrieflyWhatWasBuiltHere(t *testing.T) {
	src := deadlineSource{store.NewMem(), make(chan time.Duration, 1)}
	s := newSecrets(Config{Sharing: SharingConfig{Sources: []store.Source{src}}})
	s.builtHere(t.Context(), partA)
	if d := <-src.infos; d > infoTimeout {
		t.Errorf("a source has %v, want at most %v", d, infoTimeout)
	}
}
