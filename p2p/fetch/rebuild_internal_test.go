package fetch

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/rebase"
	"narbor/store/spool"
	"narbor/trust"
)

// A slowStore has another version of the wanted path. Each read of its NAR calls wait first.
type slowStore struct {
	*store.Mem
	part store.HashPart
	wait func()
}

func (s slowStore) Namesakes(string) []store.HashPart { return []store.HashPart{s.part} }
func (s slowStore) Suspect(store.Info)                {}

func (s slowStore) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := s.Mem.NAR(ctx, info)
	return slowNAR{nar, s.wait}, err
}

type slowNAR struct {
	store.NAR
	wait func()
}

func (n slowNAR) ReadAt(p []byte, off int64) (int, error) {
	n.wait()
	return n.NAR.ReadAt(p, off)
}

// holding is a swarm with one holder.
type holding struct {
	*testRecord
	holder *peers.Neighbour
}

func (h holding) Known(trust.Mapping) []Holder { return []Holder{{Neighbour: h.holder}} }

// fileNAR returns the NAR of a file of n bytes, none of which is a character of a hash part. The NAR has n+112 bytes.
func fileNAR(n int) (nar []byte) {
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", strings.Repeat("e", n), ")"} {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(append(nar, s...), make([]byte, -len(s)&7)...)
	}
	return nar
}

// newRebuild returns a session for a NAR of 40 blocks. Another version of its path is here, and each read of that calls
// wait.
func newRebuild(t *testing.T, wait func()) (s *rebuildSession, holder *peers.Neighbour) {
	t.Helper()
	nar := fileNAR(40*store.BlockSize - 112)
	m := testMapping(t, "wanted-1.0", nar)
	part := store.HashPart("0000000000000000000000000000000v")
	old, err := store.ParsePathName(string(part) + "-wanted-1.0")
	if err != nil {
		t.Fatal(err)
	}
	mem := new(store.Mem)
	mem.Add(store.Info{Path: old, NarSize: m.NarSize()}, nar)
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	draft, err := sp.Create(m.NarHash(), m.NarSize())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		draft.Discard()
		sp.Close()
	})
	deps, record := newTestFetch()
	holder = peerNamed("holder")
	of := *deps.Deps
	slow := slowStore{mem, part, wait}
	of.Swarm, of.Rebuilds = holding{record, holder}, rebase.New(slow)
	return &rebuildSession{of.NewSession(m, draft, trust.Mapping{}, false), sp, slow}, holder
}

type rebuildSession struct {
	*Session
	spool *spool.Spool
	old   slowStore
}

func TestRebuildGivesUpADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, hung := 0, make(chan struct{})
		s, _ := newRebuild(t, func() {
			if reads++; reads > 3 {
				<-hung
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		sp, err := s.rebuild(ctx)
		if took := time.Since(start); sp != nil || err != nil || took > 3*time.Second {
			t.Errorf("rebuild = %v, %v, after %s; want to go on with the neighbours", sp, err, took)
		}
		if got, _ := s.Rebuilds.Outcome(s.Wanted.Info()); !errors.Is(got.Err, errStalled) {
			t.Errorf("the reason is %v, want that the disk has stalled", got.Err)
		}
		if got := 40 - s.plan.missing(); got != 3 {
			t.Errorf("%d blocks are there, want the 3 that could be read", got)
		}
		close(hung) // the read ends, and must not write into the draft any more
		synctest.Wait()
		if _, err := s.draft.ReadAt(make([]byte, 1), 3*store.BlockSize); err == nil {
			t.Error("a block was written after the rebuild had been given up")
		}
	})
}

func TestRebuildGivesUpADiskSlowerThanTheNeighbours(t *testing.T) {
	for name, c := range map[string]struct {
		rate int64
		want int // blocks
	}{"neighbours are slower": {store.BlockSize, 40}, "neighbours are faster": {20 * store.BlockSize, 10}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, holder := newRebuild(t, func() { time.Sleep(99 * time.Millisecond) }) // some 10 blocks a second
				holder.Rated(c.rate, time.Now())
				received := int64(0)
				s.Deps.Received = func(o store.Origin, _ trust.Mapping, _ string, n int) { received += int64(n) }
				sp, err := s.rebuild(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if o, ok := s.Rebuilds.Outcome(s.Wanted.Info()); !ok || o.From.IsZero() || c.want == 40 != (o.Err == nil) {
					t.Errorf("Outcome = %+v, %v", o, ok)
				}
				if c.want == 40 {
					if sp == nil || received != s.Wanted.NarSize() {
						t.Fatalf("not rebuilt: %v, %d bytes", sp, received)
					}
					sp.Close()
				} else if got := 40 - s.plan.missing(); sp != nil || got != c.want {
					t.Errorf("%d blocks were rebuilt (%v), want %d", got, sp, c.want)
				}
				if time.Sleep(time.Second); s.outpaced() { // a read that is under way ends meanwhile
					t.Error("the next rebuild is not tried, although no rate was measured that is below the neighbours'")
				}
			})
		})
	}
}

func TestReasonForNotRebuildingStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newRebuild(t, func() {})
		want := rebase.Outcome{From: s.Wanted.Path(), Err: rebase.ErrDiffers}
		s.Rebuilds.Record(s.Wanted.Info(), want)
		if found := s.candidates(t.Context(), s.Wanted.Info()); len(found) > 0 {
			t.Errorf("%d versions are tried again", len(found))
		}
		s.Rebuilds.Record(s.Wanted.Info(), rebase.Outcome{Err: errOutpaced})
		if got, _ := s.Rebuilds.Outcome(s.Wanted.Info()); got != want {
			t.Errorf("Outcome = %+v, want %+v", got, want)
		}
	})
}

// A disk that was measured to be slower than the neighbours is not read at all.
func TestSlowDiskIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, holder := newRebuild(t, func() { time.Sleep(99 * time.Millisecond) })
		s.Deps.Received = func(store.Origin, trust.Mapping, string, int) {}
		sp, err := s.rebuild(t.Context())
		if err != nil || sp == nil {
			t.Fatal(err)
		}
		sp.Close()
		holder.Rated(20*store.BlockSize, time.Now())
		if !s.outpaced() {
			t.Error("a rebuild would be tried at half of the neighbours' rate")
		}
		if time.Sleep(11 * time.Minute); s.outpaced() {
			t.Error("a rate that is 11 minutes old counts")
		}
	})
}

func TestRebuildEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newRebuild(t, func() { time.Sleep(100 * time.Millisecond) })
		ctx, cancel := context.WithTimeout(t.Context(), 550*time.Millisecond)
		defer cancel()
		if sp, err := s.rebuild(ctx); sp != nil || errors.Is(err, store.ErrCorrupt) {
			t.Errorf("rebuild = %v, %v", sp, err)
		}
		time.Sleep(time.Second) // a read that is under way ends meanwhile
	})
}

// A store that does not answer must not hold up a fetch.
func TestRebuildDoesNotWaitForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newRebuild(t, func() {})
		end := make(chan struct{})
		s.Deps.Rebuilds = rebase.New(hungStore{end: end})
		for range 40 { // more than there may be goroutines
			start := time.Now()
			if sp, err := s.rebuild(t.Context()); sp != nil || err != nil {
				t.Errorf("rebuild = %v, %v", sp, err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %s", took)
			}
		}
		if s.Deps.Rebuilds.Go(func() {}) {
			t.Error("the number of goroutines that wait for the store is not bounded")
		}
		close(end)
		synctest.Wait()
	})
}

// A hungStore names no path before the end of the test.
type hungStore struct {
	slowStore
	end chan struct{}
}

func (h hungStore) Namesakes(string) []store.HashPart {
	<-h.end
	return nil
}

// The blocks of an unfinished rebuild may come from a path that is not shared, and a later fetch would pass them on.
func TestUnfinishedRebuildIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newRebuild(t, func() { time.Sleep(100 * time.Millisecond) })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // of which a quarter is for the rebuild
		defer cancel()
		if sp, err := s.rebuild(ctx); sp != nil || err != nil || s.plan.missing() == 40 {
			t.Fatalf("rebuild = %v, %v, and %d blocks are missing of 40", sp, err, s.plan.missing())
		}
		if ctx.Err() != nil {
			t.Error("the rebuild took all of the time that the NAR may take")
		}
		for i := range 40 {
			if s.Have().Has(i) {
				t.Errorf("block %d, which is a guess, would be passed on", i)
			}
		}
		s.draft.Keep()
		time.Sleep(time.Second) // a read that is under way ends meanwhile
		again, err := s.spool.Resume(s.Wanted.NarHash(), s.Wanted.NarSize())
		if err != nil {
			t.Fatal(err)
		}
		defer again.Discard()
		if blocks := again.Reuse(t.Context()); len(blocks) > 0 {
			t.Errorf("the next fetch would use blocks %v of the rebuild", blocks)
		}
	})
}

// A neighbour could tell from the time of a rebuild that another version is here.
func TestNothingIsRebuiltForOthers(t *testing.T) {
	for _, forOthers := range []bool{false, true} {
		s, _ := newRebuild(t, func() {})
		s.Deps.Received = func(store.Origin, trust.Mapping, string, int) {}
		sp, err := s.Fetch(t.Context(), true, forOthers)
		if sp != nil {
			sp.Close()
		}
		if rebuilt := sp != nil; rebuilt == forOthers || rebuilt != (err == nil) {
			t.Errorf("for others %v: rebuilt %v, %v", forOthers, rebuilt, err)
		}
	}
}

func TestBlocksUntil(t *testing.T) {
	size := int64(2*store.BlockSize + 10)
	for n, want := range map[int64][]int{0: nil, store.BlockSize - 1: nil, store.BlockSize: {0}, size - 1: {0, 1}, size: {0, 1, 2}} {
		if got := blocksUntil(n, size); !slices.Equal(got, want) {
			t.Errorf("blocksUntil(%d) = %v, want %v", n, got, want)
		}
	}
}

// The first of two other versions is wrong, and the second cannot be read: the draft is wrong, and one of them may be
// damaged.
func TestRebuildOfWhichTheSecondVersionBreaksOffIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		s, _ := newRebuild(t, func() {
			if reads++; reads > 40 {
				time.Sleep(time.Minute)
			}
		})
		s.Deps.Rebuilds = rebase.New(twoVersions{s.old})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if sp, err := s.Fetch(ctx, true, false); sp != nil || !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Fetch = %v, %v, want ErrNotFound: there is no neighbour", sp, err)
		}
		if s.rebuilt == nil {
			t.Error("no version is known to be wrong")
		}
		time.Sleep(time.Minute) // the read ends meanwhile
	})
}

// twoVersions has a second version with the same content. Neither becomes the wanted NAR.
type twoVersions struct{ slowStore }

func (v twoVersions) Namesakes(string) []store.HashPart {
	return []store.HashPart{v.part, "0000000000000000000000000000000w"}
}

func (v twoVersions) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	info, err := v.slowStore.Info(ctx, v.part)
	if err != nil {
		return info, err
	}
	info.Path, err = store.ParsePathName(string(hp) + "-wanted-1.0")
	return info, err
}

func (v twoVersions) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	info.Path, _ = store.ParsePathName(string(v.part) + "-wanted-1.0")
	nar, err := v.slowStore.NAR(ctx, info)
	return wrongNAR{nar}, err
}

// A wrongNAR differs in one byte of its first block.
type wrongNAR struct{ store.NAR }

func (n wrongNAR) ReadAt(p []byte, off int64) (int, error) {
	k, err := n.NAR.ReadAt(p, off)
	if off == 0 && k > 200 {
		p[200]++
	}
	return k, err
}
