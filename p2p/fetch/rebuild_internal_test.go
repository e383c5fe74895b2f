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

// A slowStore has one path, another version of what is wanted. Each read of its NAR waits.
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

// fileNAR returns the NAR of a file of n bytes, which takes 112 more. No byte of the file may be one of a hash part.
func fileNAR(n int) (nar []byte) {
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", strings.Repeat("e", n), ")"} {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(append(nar, s...), make([]byte, -len(s)&7)...)
	}
	return nar
}

// newRebuild returns a session for a NAR of 40 blocks of which another version is here. The reads of that wait.
func newRebuild(t *testing.T, wait func()) (s *Session, holder *peers.Neighbour) {
	t.Helper()
	nar := fileNAR(40*store.BlockSize - 112)
	m := testMapping(t, "wanted-1.0", nar)
	part := store.HashPart("0000000000000000000000000000000v")
	old, err := store.ParsePathName(string(part) + "-wanted-1.0")
	if err != nil {
		t.Fatal(err)
	}
	mem := store.NewMem()
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
	of.Swarm, of.Rebuilds = holding{record, holder}, rebase.New(slowStore{mem, part, wait})
	return New(&of, m, draft, trust.Mapping{}, false), holder
}

func TestRebuildGivesUpADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, hung := 0, make(chan struct{})
		s, _ := newRebuild(t, func() {
			if reads++; reads > 3 {
				<-hung
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		sp, err := s.rebuild(ctx)
		if sp != nil || err != nil || ctx.Err() != nil {
			t.Errorf("rebuild = %v, %v, and %v; want to go on with the neighbours within 10 s", sp, err, ctx.Err())
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
		s.Deps.Rebuilds = rebase.New(hungStore{})
		start := time.Now()
		if sp, err := s.rebuild(t.Context()); sp != nil || err != nil {
			t.Errorf("rebuild = %v, %v", sp, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// A hungStore answers no question before its context ends.
type hungStore struct{ slowStore }

func (hungStore) Namesakes(string) []store.HashPart {
	return []store.HashPart{"0000000000000000000000000000000v"}
}

func (hungStore) Info(ctx context.Context, _ store.HashPart) (store.Info, error) {
	<-ctx.Done()
	return store.Info{}, ctx.Err()
}

func TestBlocksUntil(t *testing.T) {
	size := int64(2*store.BlockSize + 10)
	for n, want := range map[int64][]int{0: nil, store.BlockSize - 1: nil, store.BlockSize: {0}, size - 1: {0, 1}, size: {0, 1, 2}} {
		if got := blocksUntil(n, size); !slices.Equal(got, want) {
			t.Errorf("blocksUntil(%d) = %v, want %v", n, got, want)
		}
	}
}
