package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"narbor/p2p"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A listener is a source that remembers what it was asked.
type listener struct {
	store.Source
	mu    sync.Mutex // guards asked
	asked []store.HashPart
}

func (l *listener) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	l.mu.Lock()
	l.asked = append(l.asked, hp)
	l.mu.Unlock()
	return l.Source.Info(ctx, hp)
}

func (l *listener) heard(hp store.HashPart) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.asked, hp)
}

// newPrivate returns an upstream with a key of another name than that of newUpstream, and the keys of both.
func newPrivate(t *testing.T, public signer) (signer, *trust.Keys) {
	t.Helper()
	secret, keys := trusttest.NewKey(t, "private-1")
	both, err := trust.ParseKeys([]string{secret.ToPublicKey().String(), public.secret.ToPublicKey().String()})
	if err != nil {
		t.Fatal(err)
	}
	return signer{secret, keys}, both
}

func TestSecretHashPartsAreNotToldToNeighbours(t *testing.T) {
	public := newUpstream(t)
	private, both := newPrivate(t, public)
	nar := noise(1, 100)
	for _, c := range []struct {
		name                          string
		signer                        signer
		absent, ultimate, group, told bool
	}{
		{name: "not here", signer: public, absent: true, told: true},
		{name: "signed by a public key", signer: public, told: true},
		{name: "built here, with a public signature", signer: public, ultimate: true},
		{name: "built here, in a group", signer: private, ultimate: true, group: true},
		{name: "signed by a private key alone", signer: private},
		{name: "signed by a private key, in a group", signer: private, group: true, told: true},
	} {
		var secret []byte
		if c.group {
			secret = bytes.Repeat([]byte{7}, 32)
		}
		ears, mem, info := &listener{Source: new(store.Mem)}, new(store.Mem), c.signer.sign(t, "x", nar)
		if info.Ultimate = c.ultimate; !c.absent {
			mem.Add(info, nar)
		}
		hp := info.Path.HashPart()
		alice := public.newMachineAs(t, spool.Config{}, ears, func(cfg *p2p.Config) { cfg.GroupSecret = secret })
		bob := public.newMachineAs(t, spool.Config{}, mem, func(cfg *p2p.Config) {
			if cfg.Trusted, cfg.GroupSecret = both, secret; c.group {
				cfg.Sharing.Keys = both
			}
		}, alice)
		if _, err := bob.Lookup(t.Context(), hp); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Lookup = %v, want ErrNotFound", c.name, err)
		}
		answers := bob.AskEach(t.Context(), hp) // an answer means that the question was heard
		for end := time.Now().Add(p2p.AtMost(10 * time.Second)); c.told && !ears.heard(hp) && time.Now().Before(end); {
			answers = bob.AskEach(t.Context(), hp) // on a busy machine no neighbour is asked if the store answers late
		}
		if (len(answers) > 0) != c.told || ears.heard(hp) != c.told {
			t.Errorf("%s: the neighbour has heard of it: %t, and answered %d times; want %t", c.name, ears.heard(hp), len(answers), c.told)
		}
	}
}

// A mute is a source that does not answer before a question's deadline.
type mute struct{ store.Source }

func (mute) Info(ctx context.Context, _ store.HashPart) (store.Info, error) {
	<-ctx.Done()
	return store.Info{}, ctx.Err()
}

func TestStoreThatDoesNotAnswerKeepsNeighboursUnasked(t *testing.T) {
	t.Parallel()
	public := newUpstream(t)
	ears, hp := &listener{Source: new(store.Mem)}, public.sign(t, "x", noise(1, 100)).Path.HashPart()
	alice := public.newMachine(t, ears)
	bob := public.newMachine(t, mute{new(store.Mem)}, alice)
	if _, err := bob.Lookup(t.Context(), hp); !errors.Is(err, store.ErrNotFound) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lookup = %v, want ErrNotFound and DeadlineExceeded", err)
	}
	if answers := bob.AskEach(t.Context(), hp); len(answers) > 0 || ears.heard(hp) {
		t.Errorf("a neighbour has heard of the hash part: %t, and %d have answered; want none", ears.heard(hp), len(answers))
	}
}

// A NAR that only a private key has signed, and that no neighbour has claimed, is fetched without a word to neighbours.
func TestFetchOfPrivateNARTellsNeighboursNothing(t *testing.T) {
	public := newUpstream(t)
	private, both := newPrivate(t, public)
	for told, signer := range map[bool]signer{false: private, true: public} {
		info := signer.sign(t, "x", noise(1, 1000))
		ears := &listener{Source: new(store.Mem)}
		alice := public.newMachine(t, ears)
		bob := public.newMachineAs(t, spool.Config{}, new(store.Mem), func(cfg *p2p.Config) { cfg.Trusted = both }, alice)
		m, err := both.Check(info)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bob.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Fetch = %v, want ErrNotFound", err)
		}
		if got := ears.heard(info.Path.HashPart()); got != told {
			t.Errorf("signed by %s: the neighbour has heard of it: %t, want %t", m.SignedBy(), got, told)
		}
	}
}
