package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust/trusttest"
)

// asked records which blocks a rogue was asked for.
type asked struct {
	mu     sync.Mutex
	blocks []int
}

// next records a block, and returns how many there are.
func (a *asked) next(i int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blocks = append(a.blocks, i)
	return len(a.blocks)
}

// distinct returns the blocks, each once.
func (a *asked) distinct() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(a.blocks)))
}

// keptSpool returns a spool with a draft of a NAR that was given up after some blocks.
func keptSpool(t testing.TB, info store.Info, nar []byte, blocks ...int) *spool.Spool {
	t.Helper()
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	d, err := sp.Create(info.NarHash, info.NarSize)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Keep()
	for _, i := range blocks {
		off := int64(i) * store.BlockSize
		if _, err := d.WriteAt(nar[off:off+int64(store.BlockLen(info.NarSize, i))], off); err != nil {
			t.Fatal(err)
		}
	}
	return sp
}

// A fetch that failed, or that its caller left, is continued from another neighbour, after a restart, too.
func TestNextFetchGoesOnWithWhatIsThere(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(12*store.BlockSize + 5)
	info, m := s.Sign(t, "big", nar)
	for name, restart := range map[string]bool{"same process": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open := func() *spool.Spool {
				sp, err := spool.Open(spool.Config{Dir: dir, MinFree: -1})
				if err != nil {
					t.Fatal(err)
				}
				return sp
			}
			var first, second asked
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			var node atomic.Pointer[Node]
			stalls := &rogue{info: info, nar: nar}
			stalls.block = func(s network.Stream, i int, b []byte) error {
				if first.next(i) <= 6 {
					return writeRaw(s, b)
				}
				storetest.Eventually(t, "the first blocks have arrived", func() bool {
					return node.Load().ledger.TallyOf(stalls.ID()).BlocksReceived.Load() == 6
				})
				leave()
				return errEnd
			}
			stalls.start(t)
			sp := open()
			n, stop := runNodeAs(t, s, func(cfg *Config) { cfg.Spool = sp }, stalls)
			node.Store(n)
			if got, err := n.Fetch(ctx, m); err == nil {
				got.Close()
				t.Fatal("the first fetch has not failed")
			}
			stop()
			if restart {
				sp.Close()
				sp = open()
			}
			t.Cleanup(func() { sp.Close() })
			honest := (&rogue{info: info, nar: nar, block: func(s network.Stream, i int, b []byte) error {
				second.next(i)
				return writeRaw(s, b)
			}}).start(t)
			n, _ = runNodeAs(t, s, func(cfg *Config) { cfg.Spool = sp }, honest)
			fetchAll(t, n, m, nar)
			if got := len(second.distinct()); got > 7 {
				t.Errorf("%d of 13 blocks were fetched after 6 had come: %v", got, second.distinct())
			}
		})
	}
}

func TestNARThatIsWholeOnDiskNeedsNoNeighbour(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(3 * store.BlockSize)
	info, m := s.Sign(t, "whole", nar)
	sp := keptSpool(t, info, nar, 0, 1, 2)
	t.Cleanup(func() { sp.Close() })
	n, _ := runNodeAs(t, s, func(cfg *Config) { cfg.Spool = sp })
	fetchAll(t, n, m, nar)
}

// Blocks on disk that are wrong, although their checksums agree, are fetched again. No peer is blamed.
func TestWrongBlocksOnDiskAreFetchedAgain(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(10 * store.BlockSize)
	info, m := s.Sign(t, "damaged", nar)
	sums := binary.AppendUvarint(nil, 10)
	for i := range 10 {
		h := sha256.Sum256(nar[i*store.BlockSize:][:store.BlockLen(info.NarSize, i)])
		sums = append(sums, h[:]...)
	}
	manifest := func(s network.Stream) error {
		_, err := s.Write(sums)
		return err
	}
	wrong := slices.Clone(nar)
	wrong[2*store.BlockSize] ^= 1
	wrong[5*store.BlockSize+9] ^= 1
	for name, tt := range map[string]struct {
		kept     []int
		manifest func(network.Stream) error
		want     []int
	}{
		"a part, compared with a manifest": {kept: []int{0, 1, 2, 3, 4, 5, 6}, want: []int{2, 5, 7, 8, 9},
			manifest: manifest},
		"all, compared with a manifest": {kept: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, want: []int{2, 5},
			manifest: manifest},
		"all, without a manifest": {kept: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, want: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			sp := keptSpool(t, info, wrong, tt.kept...)
			t.Cleanup(func() { sp.Close() })
			var blocks asked
			g := (&rogue{info: info, nar: nar, manifest: tt.manifest, block: func(s network.Stream, i int, b []byte) error {
				blocks.next(i)
				return writeRaw(s, b)
			}}).start(t)
			n, _ := runNodeAs(t, s, func(cfg *Config) { cfg.Spool = sp }, g)
			fetchAll(t, n, m, nar)
			if got := blocks.distinct(); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("blocks %v were fetched, want %v", got, tt.want)
			}
			tally := n.ledger.TallyOf(g.ID())
			if tally.Strikes.Load() != 0 || tally.CountWrong(time.Now()) != 0 {
				t.Errorf("the honest neighbour has %d strikes and %d wrong NARs", tally.Strikes.Load(), tally.CountWrong(time.Now()))
			}
		})
	}
}

// The blocks of an unfinished NAR stay as they are while no neighbour has it.
func TestDraftOutlastsAFetchWithoutNeighbours(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, m := s.Sign(t, "lonely", nar)
	sp := keptSpool(t, info, nar, 0, 1)
	t.Cleanup(func() { sp.Close() })
	n, stop := runNodeAs(t, s, func(cfg *Config) { cfg.Spool = sp })
	if got, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Fetch = %v, %v, want ErrNotFound", got, err)
	}
	stop()
	d, err := sp.Resume(info.NarHash, info.NarSize)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Keep()
	if got := fmt.Sprint(d.Reuse(t.Context())); got != "[0 1]" {
		t.Errorf("blocks %s are left, want 0 and 1", got)
	}
}

// Two callers share one fetch. When the one that began it leaves, the other one goes on with what has come.
func TestSecondCallerTakesOverAFetch(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(12 * store.BlockSize)
	info, m := s.Sign(t, "shared", nar)
	var blocks asked
	gate := make(chan struct{})
	g := &rogue{info: info, nar: nar, block: func(s network.Stream, i int, b []byte) error {
		if blocks.next(i) > 3 {
			<-gate
		}
		return writeRaw(s, b)
	}}
	n, _ := runNode(t, s, nil, g.start(t))
	begin := func(ctx context.Context) <-chan error {
		ended := make(chan error, 1)
		go func() {
			sp, err := n.FetchShared(ctx, m)
			if err == nil {
				err = sp.Close()
			}
			ended <- err
		}()
		return ended
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	first := begin(ctx)
	storetest.Eventually(t, "three blocks have come", func() bool { return n.ledger.TallyOf(g.ID()).BlocksReceived.Load() == 3 })
	if sp, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Fetch of a NAR that is being received = %p, %v, want ErrNotFound", sp, err)
	}
	var others []<-chan error
	for range 4 {
		others = append(others, begin(t.Context()))
	}
	leave()
	if err := <-first; err == nil {
		t.Error("the first call has got the NAR")
	}
	close(gate)
	for _, other := range others {
		if err := <-other; err != nil {
			t.Fatalf("another call: %v", err)
		}
	}
	blocks.mu.Lock()
	defer blocks.mu.Unlock()
	for k, i := range blocks.blocks[:3] {
		if slices.Contains(blocks.blocks[k+1:], i) {
			t.Errorf("block %d was fetched again: %v", i, blocks.blocks)
		}
	}
}
