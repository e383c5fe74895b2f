package p2p_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/p2p"
	"narbor/store"
	"narbor/store/rebase"
	"narbor/store/spool"
)

// oldPaths is a store with other versions of paths. It records the suspects.
type oldPaths struct {
	*store.Mem
	parts []store.HashPart

	mu       sync.Mutex // guards suspects
	suspects []store.Path
}

func (o *oldPaths) Namesakes(string) []store.HashPart { return o.parts }

func (o *oldPaths) Suspect(info store.Info) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.suspects = append(o.suspects, info.Path)
}

func (o *oldPaths) suspected() []store.Path {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.suspects)
}

// versionOf returns a store with another version of a path. Its NAR is nar with the old path in place of the new one,
// changed by edit.
func versionOf(t *testing.T, info store.Info, nar []byte, edit func(nar []byte)) *oldPaths {
	t.Helper()
	part := sha256.Sum256([]byte("old " + info.Path.Name()))
	path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + info.Path.Name())
	if err != nil {
		t.Fatal(err)
	}
	old := bytes.ReplaceAll(nar, []byte(info.Path.Base()), []byte(path.Base()))
	edit(old)
	mem := new(store.Mem)
	mem.Add(store.Info{Path: path, NarHash: sha256.Sum256(old), NarSize: int64(len(old))}, old)
	return &oldPaths{Mem: mem, parts: []store.HashPart{path.HashPart()}}
}

// mentioning returns a NAR that contains its own store path several times, once across the edge of a block.
func (u signer) mentioning(t *testing.T, name string, blocks int) (store.Info, []byte) {
	t.Helper()
	base := u.sign(t, name, nil).Path.Base() // a path's name does not depend on its content
	nar := noise(7, blocks*store.BlockSize)
	for _, off := range []int{1000, store.BlockSize - 10, len(nar) - 500} {
		copy(nar[off:], base)
	}
	return u.sign(t, name, nar), nar
}

// rebuilder returns a machine that has other versions, and an empty spool.
func (u signer) rebuilder(t *testing.T, old *oldPaths, to ...*machine) *machine {
	t.Helper()
	return u.newMachineAs(t, spool.Config{}, nil, func(cfg *p2p.Config) { cfg.Rebuilds = rebase.New(old) }, to...)
}

func TestPathThatWasOnlyRebuiltIsNotTransferred(t *testing.T) {
	u := newUpstream(t)
	info, nar := u.mentioning(t, "hello-1.0", 9)
	holder := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	asker := u.rebuilder(t, versionOf(t, info, nar, func([]byte) {}), holder)
	asker.fetch(t, info, nar)
	got := asker.Status().Received
	if got[store.FromRebuild] != info.NarSize || got[store.FromNeighbours] != 0 {
		t.Errorf("received %v, want all %d bytes rebuilt", got, info.NarSize)
	}
}

// A NAR can be rebuilt without any neighbour: only the mapping must be known.
func TestRebuildNeedsNoNeighbour(t *testing.T) {
	u := newUpstream(t)
	info, nar := u.mentioning(t, "hello-1.0", 2)
	m, err := u.keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	u.rebuilder(t, versionOf(t, info, nar, func([]byte) {})).fetchMapped(t, m, nar)
}

// The upstream is asked for the mapping alone.
func TestPathThatWasOnlyRebuiltIsNotDownloaded(t *testing.T) {
	u := newUpstream(t)
	web := newWebCache(t, u)
	info, nar := u.mentioning(t, "hello-1.0", 9)
	web.put(info, nar)
	old := versionOf(t, info, nar, func([]byte) {})
	asker := u.newMachineAs(t, spool.Config{}, nil, func(cfg *p2p.Config) {
		web.with(t)(cfg)
		cfg.Rebuilds = rebase.New(old)
	})
	m, err := asker.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	asker.fetchMapped(t, m, nar)
	if _, nars := web.requests(); nars != 0 || asker.Status().Received[store.FromRebuild] != info.NarSize {
		t.Errorf("%d archives were downloaded, and received %v; want all rebuilt", nars, asker.Status().Received)
	}
}

// A wrong rebuild is not repaired without a manifest, which an upstream does not have: all blocks are downloaded.
func TestPathThatChangedIsDownloadedAfterARebuild(t *testing.T) {
	u := newUpstream(t)
	web := newWebCache(t, u)
	info, nar := u.mentioning(t, "hello-1.0", 9)
	web.put(info, nar)
	old := versionOf(t, info, nar, func(nar []byte) { nar[5*store.BlockSize+7] ^= 1 })
	asker := u.newMachineAs(t, spool.Config{}, nil, func(cfg *p2p.Config) {
		web.with(t)(cfg)
		cfg.Rebuilds = rebase.New(old)
	})
	m, err := asker.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	asker.fetchMapped(t, m, nar)
	if _, nars := web.requests(); nars != 1 {
		t.Errorf("%d archives were downloaded, want one", nars)
	}
}

// If one block differs, only that block is fetched, and the other version is checked for damage.
func TestOnlyChangedBlocksAreFetched(t *testing.T) {
	u := newUpstream(t)
	info, nar := u.mentioning(t, "hello-1.0", 9)
	old := versionOf(t, info, nar, func(nar []byte) { nar[5*store.BlockSize+7] ^= 1 })
	holder := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	asker := u.rebuilder(t, old, holder)
	asker.fetch(t, info, nar)
	if got := asker.Status().Received; got[store.FromNeighbours] != store.BlockSize || got[store.FromRebuild] != 0 {
		t.Errorf("received %v, want one block of %d bytes from the neighbour", got, store.BlockSize)
	}
	if got := old.suspected(); len(got) != 1 {
		t.Errorf("suspects are %v, want the other version", got)
	}
	if got := asker.Status().Rejected["hash_mismatch"]; got != 0 {
		t.Errorf("%d wrong NARs were counted of peers: the rebuilt one is not theirs", got)
	}
}

func TestWrongRebuildWithoutAHolderIsNotFound(t *testing.T) {
	u := newUpstream(t)
	info, nar := u.mentioning(t, "hello-1.0", 3)
	m, err := u.keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	old := versionOf(t, info, nar, func(nar []byte) { nar[77]++ })
	asker := u.rebuilder(t, old)
	for range 2 {
		if sp, err := asker.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("Fetch = %v, %v, want ErrNotFound", sp, err)
		}
	}
	if got := old.suspected(); len(got) != 1 {
		t.Errorf("suspects are %v, want the other version, because no manifest shows that it has changed", got)
	}
}

// If another version cannot be read to its end, only the rest is fetched.
func TestRebuildThatBreaksOffIsCompletedByNeighbours(t *testing.T) {
	u := newUpstream(t)
	info, nar := u.mentioning(t, "hello-1.0", 9)
	old := versionOf(t, info, nar, func([]byte) {})
	holder := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	asker := u.newMachineAs(t, spool.Config{}, nil, func(cfg *p2p.Config) { cfg.Rebuilds = rebase.New(breakingOff{old}) }, holder)
	asker.fetch(t, info, nar)
	got := asker.Status().Received
	if n := got[store.FromNeighbours]; n == 0 || n > info.NarSize-3*store.BlockSize {
		t.Errorf("received %v of %d bytes, want all but the beginning from the neighbour", got, info.NarSize)
	}
}

// breakingOff cannot read its NARs after four blocks.
type breakingOff struct{ *oldPaths }

func (b breakingOff) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := b.oldPaths.NAR(ctx, info)
	return brokenNAR{nar}, err
}

type brokenNAR struct{ store.NAR }

func (b brokenNAR) ReadAt(p []byte, off int64) (int, error) {
	if off >= 4*store.BlockSize {
		return 0, errors.New("the disk is broken here")
	}
	return b.NAR.ReadAt(p, off)
}
