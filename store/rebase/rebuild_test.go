package rebase_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/store/rebase"
)

// A world is a store of namesakes.
type world struct {
	*store.Mem
	parts    []store.HashPart
	suspects []store.Path
	damaged  store.Path
}

func newWorld() *world { return &world{Mem: new(store.Mem)} }

func (w *world) Namesakes(string) []store.HashPart { return w.parts }

func (w *world) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	info, err := w.Mem.Info(ctx, hp)
	if err == nil && info.Path == w.damaged {
		return info, fmt.Errorf("%w: %w", store.ErrNotFound, store.ErrDamaged)
	}
	return info, err
}

func (w *world) Suspect(info store.Info) { w.suspects = append(w.suspects, info.Path) }

// add puts a path into the store. Its NAR is its content.
func (w *world) add(t *testing.T, base, content string, refs ...string) store.Info {
	t.Helper()
	info := wantedOf(t, base, content, refs...)
	w.Add(info, []byte(content))
	w.parts = append(w.parts, info.Path.HashPart())
	return info
}

func wantedOf(t *testing.T, base, content string, refs ...string) store.Info {
	t.Helper()
	info := store.Info{Path: path(t, base), NarHash: sha256.Sum256([]byte(content)), NarSize: int64(len(content))}
	for _, r := range refs {
		info.References = append(info.References, path(t, r))
	}
	return info
}

func TestCandidatesAreTheVersionsThatMayBecomeTheWantedPath(t *testing.T) {
	wanted := wantedOf(t, new1+"-app-1.0", "uses "+new2+"-lib", new2+"-lib")
	right := "uses " + hash2 + "-lib"
	for name, c := range map[string]struct {
		fill func(w *world)
		want int
		err  error
	}{
		"none":         {func(*world) {}, 0, rebase.ErrNoOld},
		"one":          {func(w *world) { w.add(t, hash1+"-app-1.0", right, hash2+"-lib") }, 1, nil},
		"itself":       {func(w *world) { w.add(t, new1+"-app-1.0", right, hash2+"-lib") }, 0, rebase.ErrNoOld},
		"another name": {func(w *world) { w.add(t, hash1+"-app-1.1", right, hash2+"-lib") }, 0, rebase.ErrNoOld},
		"another size": {func(w *world) { w.add(t, hash1+"-app-1.0", right+"!", hash2+"-lib") }, 0, rebase.ErrSize},
		"damaged": {func(w *world) {
			w.damaged = w.add(t, hash1+"-app-1.0", right, hash2+"-lib").Path
		}, 0, store.ErrDamaged},
		"no longer valid":    {func(w *world) { w.Remove(w.add(t, hash1+"-app-1.0", right).Path.HashPart()) }, 0, rebase.ErrNoOld},
		"another size, then": {func(w *world) { w.add(t, hash3+"-app-1.0", "x"); w.add(t, hash1+"-app-1.0", right, hash2+"-lib") }, 1, nil},
		"four": {func(w *world) {
			for _, hash := range []string{hash1, hash2, hash3, new3} {
				w.add(t, hash+"-app-1.0", right, hash2+"-lib")
			}
		}, 3, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.fill(w)
			list, err := rebase.New(w).Candidates(t.Context(), wanted)
			if len(list) != c.want || !errors.Is(err, c.err) {
				t.Errorf("%d candidates, %v; want %d, %v", len(list), err, c.want, c.err)
			}
		})
	}
	w := newWorld()
	w.add(t, hash1+"-app-1.0", right, hash2+"-other")
	if list, err := rebase.New(w).Candidates(t.Context(), wanted); len(list) != 0 || err == nil || errors.Is(err, rebase.ErrNoOld) {
		t.Errorf("a reference without a partner: %d candidates, %v", len(list), err)
	}
}

func TestCandidateHasTheNewStorePaths(t *testing.T) {
	w := newWorld()
	w.add(t, hash1+"-app-1.0", hash1+"-app-1.0 uses "+hash2+"-lib", hash1+"-app-1.0", hash2+"-lib")
	right := new1 + "-app-1.0 uses " + new2 + "-lib"
	list, err := rebase.New(w).Candidates(t.Context(), wantedOf(t, new1+"-app-1.0", right, new1+"-app-1.0", new2+"-lib"))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := list[0].WriteTo(t.Context(), &got); err != nil || got.String() != right {
		t.Errorf("WriteTo wrote %q, %v; want %q", got.String(), err, right)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := list[0].WriteTo(ended, &got); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteTo after the end of its context = %v", err)
	}
	w.Remove(list[0].Old.Path.HashPart())
	if err := list[0].WriteTo(t.Context(), &got); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("WriteTo of a path that was collected = %v", err)
	}
}

func TestPathThatHasChangedIsNotTriedAgain(t *testing.T) {
	w := newWorld()
	old := w.add(t, hash1+"-app-1.0", "old")
	r, wanted := rebase.New(w), wantedOf(t, new1+"-app-1.0", "new")
	list, err := r.Candidates(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	r.Record(wanted, rebase.Outcome{From: old.Path, Err: rebase.ErrDiffers})
	list[0].Suspect()
	if list, err := r.Candidates(t.Context(), wanted); len(list) > 0 || !errors.Is(err, rebase.ErrDiffers) {
		t.Errorf("%d candidates, %v", len(list), err)
	}
	if o, ok := r.Outcome(wanted); !ok || o.From != old.Path {
		t.Errorf("Outcome = %+v, %v; want it to name %s", o, ok, old.Path)
	}
	if !slices.Equal(w.suspects, []store.Path{old.Path}) {
		t.Errorf("suspects are %v, want %s", w.suspects, old.Path)
	}
	if list, err := r.Candidates(t.Context(), wantedOf(t, new2+"-app-1.0", "yes")); len(list) != 1 || err != nil {
		t.Errorf("another wanted path: %d candidates, %v", len(list), err)
	}
}

func TestRateIsMeasuredAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.add(t, hash1+"-app-1.0", string(make([]byte, 2<<20)))
		r := rebase.New(w)
		list, err := r.Candidates(t.Context(), wantedOf(t, new1+"-app-1.0", string(make([]byte, 2<<20))))
		if err != nil {
			t.Fatal(err)
		}
		if r.Rate() != 0 {
			t.Error("there is a rate before anything was rebuilt")
		}
		if err := list[0].WriteTo(t.Context(), slowly{}); err != nil {
			t.Fatal(err)
		}
		if got := r.Rate(); got < 1<<20 || got > 3<<20 {
			t.Errorf("%d bytes per second were measured, want about 2 MiB", got)
		}
		if time.Sleep(11 * time.Minute); r.Rate() != 0 {
			t.Error("a rate that was measured 11 minutes ago counts")
		}
	})
}

// slowly is a writer that takes a second for 2 MiB.
type slowly struct{}

func (slowly) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Second / (2 << 20))
	return len(p), nil
}

func TestRecentCountsPathsWithoutAnotherVersion(t *testing.T) {
	r := rebase.New(newWorld())
	for i, err := range []error{nil, rebase.ErrNoOld, rebase.ErrSize, rebase.ErrDiffers, rebase.ErrNoOld} {
		wanted := wantedOf(t, new1+fmt.Sprintf("-app-%d", i), "new")
		r.Record(wanted, rebase.Outcome{Err: err})
		r.Record(wanted, rebase.Outcome{Err: err}) // it was wanted again
	}
	if got, want := r.Recent(), (rebase.Recent{Wanted: 5, NoOld: 2}); got != want {
		t.Errorf("Recent = %+v, want %+v", got, want)
	}
}
