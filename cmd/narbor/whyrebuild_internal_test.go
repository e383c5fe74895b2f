package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/store"
	"narbor/store/damage"
	"narbor/store/rebase"
)

// An oldStore is a store with one path. Its list of namesakes is that path.
type oldStore struct {
	*damage.Source
	old store.Path
}

func (s oldStore) Namesakes(string) []store.HashPart { return []store.HashPart{s.old.HashPart()} }

// newOldStore returns the shares of a machine with one path. Its content matches the claim, or differs from it.
func newOldStore(t *testing.T, claim store.Info, content string) *shares {
	t.Helper()
	d, err := damage.Open("", func(damage.Finding, bool) {})
	if err != nil {
		t.Fatal(err)
	}
	mem := new(store.Mem)
	mem.Add(claim, []byte(content))
	guarded := d.Guard(mem, store.Dir, "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return &shares{damage: d, rebuilds: rebase.New(oldStore{guarded, claim.Path})}
}

// claimOf returns the claim of a path with some content. The digit makes its hash part.
func claimOf(t *testing.T, digit, name, content string) store.Info {
	t.Helper()
	p, err := store.ParsePathName(strings.Repeat(digit, 32) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return store.Info{Path: p, NarHash: sha256.Sum256([]byte(content)), NarSize: int64(len(content))}
}

func TestWhyNamesTheVersionThatAPathIsRebuiltFrom(t *testing.T) {
	old, wanted := claimOf(t, "1", "app-1.0", "content"), claimOf(t, "2", "app-1.0", "CONTENT")
	larger, other := claimOf(t, "3", "app-1.0", "content!"), claimOf(t, "4", "tool-1.0", "content")
	slow := fmt.Errorf("read: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		claim   store.Info
		here    bool
		outcome *rebase.Outcome
		want    string // from, done, problem
	}{
		"expected":            {wanted, false, nil, old.Path.String() + " false "},
		"rebuilt":             {wanted, true, &rebase.Outcome{From: old.Path}, old.Path.String() + " true "},
		"rebuilt and deleted": {wanted, false, &rebase.Outcome{From: old.Path}, old.Path.String() + " false "},
		"another NarSize":     {larger, false, nil, " false " + rebase.ErrSize.Error()},
		"no old version":      {other, false, nil, " false " + rebase.ErrNoOld.Error()},
		"changed": {wanted, false, &rebase.Outcome{From: old.Path, Err: rebase.ErrDiffers},
			old.Path.String() + " false " + rebase.ErrDiffers.Error()},
		"late":                 {wanted, true, &rebase.Outcome{Err: slow}, " false it took too long"},
		"failed, tried again":  {wanted, false, &rebase.Outcome{Err: slow}, old.Path.String() + " false "},
		"here for another way": {wanted, true, nil, "nil"},
		"unknown path":         {store.Info{}, false, nil, "nil"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newOldStore(t, old, "content")
			if c.outcome != nil {
				s.rebuilds.Record(c.claim, *c.outcome)
			}
			got := "nil"
			if w := s.whyRebuild(t.Context(), c.claim, c.here); w != nil {
				got = fmt.Sprintf("%s %t %s", w.From, w.Done, w.Problem)
			}
			if got != c.want {
				t.Errorf("whyRebuild = %q, want %q", got, c.want)
			}
		})
	}
}

// An old version that was tampered with is found after the rebuild has failed. It is then on the list that status and
// doctor show.
func TestOldVersionThatWasTamperedWithIsReportedAsDamaged(t *testing.T) {
	old, wanted := claimOf(t, "1", "app-1.0", "content"), claimOf(t, "2", "app-1.0", "CONTENT")
	s := newOldStore(t, old, "cOntent")
	found, err := s.rebuilds.Candidates(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	s.rebuilds.Record(wanted, rebase.Outcome{From: old.Path, Err: rebase.ErrDiffers})
	found[0].Suspect()
	for end := time.Now().Add(10 * time.Second); len(s.damage.List()) == 0; {
		if time.Now().After(end) {
			t.Fatal("the old version is not on the list of damaged paths")
		}
		<-time.After(time.Millisecond)
	}
	const want = "the version of it that is here is damaged; see `narbor doctor`"
	if w := s.whyRebuild(t.Context(), wanted, false); w == nil || w.Problem != want {
		t.Errorf("whyRebuild = %+v, want the problem %q", w, want)
	}
	if _, err := s.rebuilds.Candidates(t.Context(), claimOf(t, "3", "app-1.0", "another")); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Candidates for another path = %v, want ErrDamaged", err)
	}
	var st control.Status
	st.Damaged = s.damage.List()
	if h := damageHealth(st); !strings.Contains(fmt.Sprint(*h), old.Path.String()) {
		t.Errorf("status says %+v, want it to name %s", *h, old.Path)
	}
}
