package spool_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
)

func openSpool(t testing.TB, cfg spool.Config) *spool.Spool {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "spool")
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = -1
	}
	s, err := spool.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func create(t testing.TB, s *spool.Spool, h store.Hash, size int) *spool.Draft {
	t.Helper()
	d, err := s.Create(h, int64(size))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Discard)
	return d
}

func write(t testing.TB, d *spool.Draft, b []byte, off int) {
	t.Helper()
	if n, err := d.WriteAt(b, int64(off)); n != len(b) || err != nil {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(b), off, n, err)
	}
}

func commit(t testing.TB, d *spool.Draft) *spool.NAR {
	t.Helper()
	n, err := d.Commit(nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// spooled puts a NAR into the spool and returns a handle on it.
func spooled(t testing.TB, s *spool.Spool, b []byte, h store.Hash) *spool.NAR {
	t.Helper()
	d := create(t, s, h, len(b))
	write(t, d, b, 0)
	return commit(t, d)
}

// nars lists the NARs in a spool's directory.
func nars(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestSpoolKeepsWhatWasCommitted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "spool")
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(1, 3*store.BlockSize+5)
	n := spooled(t, s, b, h)
	if n.Hash() != h || n.Size() != int64(len(b)) || !bytes.Equal(storetest.ReadAll(t, n), b) {
		t.Errorf("Commit = %v of %d bytes, not what was written", n.Hash(), n.Size())
	}
	f, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(io.LimitReader(f, n.Size())); err != nil || !bytes.Equal(got, b) {
		t.Errorf("Open: read %d bytes, %v, not what was written", len(got), err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := n.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close = %v, want ErrClosed", err)
	}
	if _, err := n.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("ReadAt after Close = %v, want ErrClosed", err)
	}
	again, ok := s.Get(h)
	if !ok || !bytes.Equal(storetest.ReadAll(t, again), b) {
		t.Fatal("Get after Close: not there, or other bytes")
	}
	again.Close()
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, nars(t, dir)[0]): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("mode of %s is %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
}

func TestSpoolRefusesTamperedNAR(t *testing.T) {
	const block = store.BlockSize
	b, h := storetest.RandomNAR(2, 4*block)
	for name, tamper := range map[string]func(b []byte){
		"first bit flipped": func(b []byte) { b[0] ^= 1 },
		"last bit flipped":  func(b []byte) { b[len(b)-1] ^= 128 },
		"cut":               func(b []byte) { clear(b[len(b)-block:]) },
		"blocks swapped": func(b []byte) {
			first := slices.Clone(b[:block])
			copy(b, b[block:2*block])
			copy(b[block:], first)
		},
		"shifted": func(b []byte) { copy(b[1:], b) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openSpool(t, spool.Config{})
			d := create(t, s, h, len(b))
			bad := slices.Clone(b)
			tamper(bad)
			for off := 0; off < len(bad); off += block {
				write(t, d, bad[off:off+block], off)
			}
			for range 2 { // whatever the state, the answer is the same
				if n, err := d.Commit(nil); !errors.Is(err, store.ErrCorrupt) || n != nil {
					t.Fatalf("Commit = %v, %v, want ErrCorrupt", n, err)
				}
			}
			if _, ok := s.Get(h); ok {
				t.Error("Get finds a NAR that was refused")
			}
			for off := len(b) - block; off >= 0; off -= block { // the draft can be mended
				write(t, d, b[off:off+block], off)
			}
			n := commit(t, d)
			defer n.Close()
			if !bytes.Equal(storetest.ReadAll(t, n), b) {
				t.Error("the mended NAR has other bytes")
			}
		})
	}
}

func TestSpoolRefusesOtherSizes(t *testing.T) {
	s := openSpool(t, spool.Config{})
	b, h := storetest.RandomNAR(3, 1000)
	short := create(t, s, h, 999)
	write(t, short, b[:999], 0)
	if _, err := short.Commit(nil); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Commit of the first 999 bytes = %v, want ErrCorrupt", err)
	}
	long := create(t, s, h, 1001)
	write(t, long, append(slices.Clone(b), 0), 0)
	if _, err := long.Commit(nil); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Commit with a byte more = %v, want ErrCorrupt", err)
	}
	d := create(t, s, h, 1000)
	for _, off := range []int64{-1, 1, 1000, 1 << 62} {
		if _, err := d.WriteAt(b, off); err == nil {
			t.Errorf("WriteAt(1000 bytes, %d) into a draft of 1000 went well", off)
		}
	}
	for _, size := range []int64{-1, 0, store.MaxNarSize + 1, 1 << 62} {
		if _, err := s.Create(h, size); err == nil {
			t.Errorf("Create(%d) went well", size)
		}
	}
}

func TestSpoolRefusesIncompleteNAR(t *testing.T) {
	s := openSpool(t, spool.Config{})
	b, h := storetest.RandomNAR(4, 1000)
	d := create(t, s, h, len(b))
	if _, err := d.Commit(nil); err == nil || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Commit of nothing = %v, want an error that blames no peer", err)
	}
	write(t, d, b[500:], 500)
	write(t, d, b[:499], 0)
	if _, err := d.Commit(nil); err == nil || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Commit without byte 499 = %v, want an error that blames no peer", err)
	}
	if _, err := d.ReadAt(make([]byte, 2), 498); err == nil {
		t.Error("ReadAt reads a byte that was never written")
	}
	got := make([]byte, 499)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, b[:499]) {
		t.Errorf("ReadAt of what was written: %v, or other bytes", err)
	}
	write(t, d, b[499:500], 499)
	commit(t, d).Close()
	if n, err := d.Commit(nil); err == nil {
		t.Errorf("second Commit = %v, want an error", n)
	}
}

func TestSpoolAsksTheCheck(t *testing.T) {
	s := openSpool(t, spool.Config{})
	b, h := storetest.RandomNAR(5, 5000)
	d := create(t, s, h, len(b))
	write(t, d, b, 0)
	verdict := errors.New("forged")
	check := func(n store.NAR) error {
		if !bytes.Equal(storetest.ReadAll(t, n), b) {
			t.Error("the check sees other bytes")
		}
		return verdict
	}
	if _, err := d.Commit(check); !errors.Is(err, store.ErrCorrupt) || !errors.Is(err, verdict) {
		t.Errorf("Commit = %v, want ErrCorrupt and what the check said", err)
	}
	if _, ok := s.Get(h); ok {
		t.Error("Get finds a NAR that the check refused")
	}
	verdict = nil
	n, err := d.Commit(check)
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
}

// A malformed NAR never becomes readable, although its hash is right, and no sender is blamed.
func TestSpoolRefusesMalformedNAR(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := openSpool(t, spool.Config{Dir: dir})
	for name, nar := range map[string]string{
		"evil":     storetest.Archive(storetest.Files("..")),
		"trailing": storetest.Archive(storetest.File("")) + "x",
		"random":   strings.Repeat("x", 5000),
	} {
		h := store.Hash(sha256.Sum256([]byte(nar)))
		d := create(t, s, h, len(nar))
		write(t, d, []byte(nar), 0)
		for range 2 {
			if n, err := d.Commit(nil); n != nil || !errors.Is(err, store.ErrMalformed) || errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: Commit = %v, %v, want ErrMalformed alone", name, n, err)
			}
		}
		d.Discard()
		if n, ok := s.Get(h); ok || s.Has(h) {
			t.Errorf("%s: Get = %v: it is in the spool", name, n)
		}
	}
	if st := s.Stats(); st.Bytes != 0 || len(nars(t, dir)) != 0 || st.Verified == 0 || st.Verified%2 != 0 || st.VerifyTime <= 0 {
		t.Errorf("Stats = %+v, files %q, want nothing but that each was verified twice", st, nars(t, dir))
	}
}

// Of two different contents for one range the first counts, on disk and in the hash.
func TestDraftFirstWriteWins(t *testing.T) {
	b, h := storetest.RandomNAR(6, 4*store.BlockSize)
	wrong := make([]byte, len(b))
	s := openSpool(t, spool.Config{})
	d := create(t, s, h, len(b))
	write(t, d, b[:store.BlockSize], 0)
	write(t, d, wrong[:store.BlockSize], 0) // hashed already
	write(t, d, b[2*store.BlockSize:3*store.BlockSize], 2*store.BlockSize)
	write(t, d, wrong[2*store.BlockSize:3*store.BlockSize], 2*store.BlockSize) // not hashed yet
	over := slices.Clone(b)
	copy(over, wrong[:store.BlockSize])
	copy(over[2*store.BlockSize:], wrong[:store.BlockSize])
	write(t, d, over, 0) // missing bytes are taken, the rest is not
	n := commit(t, d)
	defer n.Close()
	if !bytes.Equal(storetest.ReadAll(t, n), b) {
		t.Error("a later write has replaced an earlier one")
	}
}

// Commit returns the bytes that were written, in any order, in any pieces and however often.
func TestDraftAnyOrder(t *testing.T) {
	s := openSpool(t, spool.Config{})
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, h := storetest.RandomNAR(seed, 40+r.IntN(300_000))
		d := create(t, s, h, len(b))
		cuts := []int{0, len(b)}
		for range 30 {
			cuts = append(cuts, r.IntN(len(b)))
		}
		slices.Sort(cuts)
		for _, i := range r.Perm(len(cuts) - 1) {
			from := max(0, cuts[i]-r.IntN(2000)) // may overlap written bytes
			write(t, d, b[from:cuts[i+1]], from)
		}
		n := commit(t, d)
		if !bytes.Equal(storetest.ReadAll(t, n), b) {
			t.Errorf("seed %d: other bytes", seed)
		}
		n.Used()
		n.Close()
	}
	if st := s.Stats(); st.Bytes != 0 || st.Entries != 0 {
		t.Errorf("Stats = %+v after everything was used, want zero", st)
	}
}

func TestDraftConcurrentWriters(t *testing.T) {
	const piece = 10_000
	s := openSpool(t, spool.Config{})
	b, h := storetest.RandomNAR(7, 400*piece+17)
	d := create(t, s, h, len(b))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			order := rand.New(rand.NewPCG(uint64(w), 2)).Perm(401)
			for _, i := range order { // each writes everything
				off := i * piece
				end := min(off+piece, len(b))
				if _, err := d.WriteAt(b[off:end], int64(off)); err != nil {
					t.Error(err)
				}
				if _, err := d.ReadAt(make([]byte, end-off), int64(off)); err != nil && i%7 == 0 &&
					!strings.Contains(err.Error(), "received") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := commit(t, d)
	defer n.Close()
	if !bytes.Equal(storetest.ReadAll(t, n), b) {
		t.Error("other bytes")
	}
}

// A liar and an honest neighbour race: the result is an error or the truth, and once the liar is gone, the truth.
func TestDraftConcurrentLiar(t *testing.T) {
	const piece = 4096
	s := openSpool(t, spool.Config{})
	b, h := storetest.RandomNAR(8, 64*piece)
	lie := slices.Clone(b)
	for i := range lie {
		lie[i] ^= byte(i >> 12)
	}
	for round := range 20 {
		d := create(t, s, h, len(b))
		var wg sync.WaitGroup
		for w, src := range [][]byte{b, lie, b} {
			wg.Go(func() {
				for _, i := range rand.New(rand.NewPCG(uint64(round), uint64(w))).Perm(64) {
					d.WriteAt(src[i*piece:(i+1)*piece], int64(i*piece))
				}
			})
		}
		wg.Go(func() { d.Commit(nil) })
		wg.Wait()
		n, err := d.Commit(nil)
		if errors.Is(err, store.ErrCorrupt) {
			write(t, d, b, 0)
			n, err = d.Commit(nil)
		}
		if errors.Is(err, os.ErrClosed) { // the early Commit came last and went well
			n, _ = s.Get(h)
		} else if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(storetest.ReadAll(t, n), b) {
			t.Fatal("Commit has accepted a lie")
		}
		n.Used()
		n.Close()
	}
}

func TestCommitWhileWriting(t *testing.T) {
	b, h := storetest.RandomNAR(9, 10_000)
	dir := t.TempDir()
	begin := func(t *testing.T, d *spool.Draft) func(error) {
		end, err := d.BeginWrite(b[:5000], 0)
		if err != nil {
			t.Fatal(err)
		}
		return end
	}
	for name, disk := range map[string]error{"that ends well": nil, "that fails": errors.New("disk on fire")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := create(t, openSpool(t, spool.Config{Dir: dir}), h, len(b))
				end := begin(t, d)
				if _, err := d.Commit(nil); err == nil || errors.Is(err, store.ErrCorrupt) { // does not wait for that write
					t.Errorf("Commit = %v, want to hear that it is not complete", err)
				}
				write(t, d, b[5000:], 5000)
				done := make(chan error, 1)
				go func() {
					n, err := d.Commit(nil)
					if err == nil {
						n.Close()
					}
					done <- err
				}()
				synctest.Wait()
				if len(done) != 0 {
					t.Fatalf("Commit = %v during a write", <-done)
				}
				end(disk)
				if err := <-done; (err == nil) != (disk == nil) || errors.Is(err, store.ErrCorrupt) {
					t.Fatalf("Commit = %v after a write that ended with %v", err, disk)
				}
				if disk != nil { // the range can be written again
					write(t, d, b[:5000], 0)
					commit(t, d).Close()
				}
			})
		})
	}
}

// A block that arrives while a NAR is being committed does not change it.
func TestWriteWhileCommitting(t *testing.T) {
	b, h := storetest.RandomNAR(9, 10_000)
	d := create(t, openSpool(t, spool.Config{}), h, len(b))
	write(t, d, make([]byte, len(b)), 0)
	if _, err := d.Commit(nil); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("Commit = %v, want ErrCorrupt", err)
	}
	write(t, d, b, 0)
	n, err := d.Commit(func(store.NAR) error {
		write(t, d, make([]byte, 100), 0)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if !bytes.Equal(storetest.ReadAll(t, n), b) {
		t.Error("the NAR has changed after its hash was compared")
	}
	if _, err := d.WriteAt(make([]byte, 100), 0); !errors.Is(err, os.ErrClosed) || !bytes.Equal(storetest.ReadAll(t, n), b) {
		t.Errorf("WriteAt after Commit = %v, want ErrClosed and no change", err)
	}
}

func TestTwoDraftsOfOneNAR(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(9, 10_000)
	one, two := create(t, s, h, len(b)), create(t, s, h, len(b))
	write(t, one, b[:5000], 0)
	write(t, two, b, 0)
	write(t, one, b[5000:], 5000)
	first, second := commit(t, two), commit(t, one)
	if st := s.Stats(); st.Entries != 1 || st.Bytes != 12288 || len(nars(t, dir)) != 1 {
		t.Errorf("Stats = %+v, files %q, want one entry", st, nars(t, dir))
	}
	first.Close()
	if !bytes.Equal(storetest.ReadAll(t, second), b) {
		t.Error("other bytes")
	}
	second.Close()
}

func TestDiscardFreesTheSpace(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(10, 10_000)
	d := create(t, s, h, len(b))
	if st := s.Stats(); st.Bytes != 12288 || len(nars(t, dir)) != 1 {
		t.Errorf("Stats = %+v, files %q, want the space reserved", st, nars(t, dir))
	}
	d.Discard()
	d.Discard()
	if st := s.Stats(); st.Bytes != 0 || len(nars(t, dir)) != 0 {
		t.Errorf("Stats = %+v, files %q after Discard, want nothing", st, nars(t, dir))
	}
	if _, err := d.WriteAt(b, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteAt after Discard = %v, want ErrClosed", err)
	}
	d = create(t, s, h, len(b))
	write(t, d, b, 0)
	n := commit(t, d)
	defer n.Close()
	d.Discard()
	if !bytes.Equal(storetest.ReadAll(t, n), b) || s.Stats().Entries != 1 {
		t.Error("Discard after Commit has done something")
	}
}

func TestUsedDeletesAfterTheLastHandle(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(11, 10_000)
	n := spooled(t, s, b, h)
	other := n.Retain()
	n.Used()
	n.Close()
	if !bytes.Equal(storetest.ReadAll(t, other), b) || len(nars(t, dir)) != 1 {
		t.Error("the NAR has gone while a handle is open")
	}
	other.Close()
	if st := s.Stats(); st.Bytes != 0 || len(nars(t, dir)) != 0 {
		t.Errorf("Stats = %+v, files %q after use, want nothing", st, nars(t, dir))
	}
	n = spooled(t, s, b, h)
	n.Used()
	other, _ = s.Get(h) // requested again meanwhile: keep it
	n.Close()
	other.Close()
	if s.Stats().Entries != 1 {
		t.Error("the NAR has gone although it was asked for after it was used")
	}
}

func TestSpoolEvictsTheLongestIdle(t *testing.T) {
	s := openSpool(t, spool.Config{MaxBytes: 40 << 10})
	var hashes []store.Hash
	for i := range 4 {
		b, h := storetest.RandomNAR(uint64(20+i), 10<<10) // takes 12 KiB
		hashes = append(hashes, h)
		n := spooled(t, s, b, h)
		n.Close()
		if i == 2 { // the first is used again, so the second goes
			n, _ := s.Get(hashes[0])
			n.Close()
		}
	}
	for i, want := range []bool{true, false, true, true} {
		n, ok := s.Get(hashes[i])
		if ok != want {
			t.Errorf("Get(%d) = %v, want %v", i, ok, want)
		}
		if ok {
			n.Close()
		}
	}
	if st := s.Stats(); st.Bytes != 36<<10 || st.MaxBytes != 40<<10 {
		t.Errorf("Stats = %+v, want 36 of 40 KiB", st)
	}
}

func TestSpoolNeverEvictsWhatIsHeld(t *testing.T) {
	s := openSpool(t, spool.Config{MaxBytes: 40 << 10})
	b, h := storetest.RandomNAR(30, 20<<10)
	held := spooled(t, s, b, h)
	b2, h2 := storetest.RandomNAR(31, 20<<10)
	d := create(t, s, h2, len(b2))
	if _, err := s.Create(h, 1); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Create in a spool full of what is in use = %v, want ErrNoSpace", err)
	}
	write(t, d, b2, 0)
	commit(t, d).Close()
	if _, err := s.Create(h, 21<<10); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Create of more than can be freed = %v, want ErrNoSpace", err)
	}
	if n, ok := s.Get(h2); !ok {
		t.Error("a NAR was evicted for one that does not fit anyway")
	} else {
		n.Close()
	}
	create(t, s, h, 20<<10)
	if _, ok := s.Get(h2); ok {
		t.Error("the idle NAR was not evicted")
	}
	if !bytes.Equal(storetest.ReadAll(t, held), b) {
		t.Error("the NAR that was held has other bytes")
	}
	held.Close()
}

func TestFreeSpaceThatCannotBeAskedForIsUnknown(t *testing.T) {
	s := openSpool(t, spool.Config{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if free := s.Stats().Free; free != -1 {
		t.Errorf("Stats of a closed spool has %d bytes free, want -1", free)
	}
}

func TestSpoolLeavesFreeSpace(t *testing.T) {
	s := openSpool(t, spool.Config{MinFree: 1 << 60})
	if _, err := s.Create(store.Hash{}, 1); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Create below the floor = %v, want ErrNoSpace", err)
	}
	if st := s.Stats(); st.Bytes != 0 {
		t.Errorf("Stats = %+v after a refusal, want zero", st)
	}
}

func TestSpoolForgetsTheIdle(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, spool.Config{Dir: dir})
		b, h := storetest.RandomNAR(40, 1000)
		b2, h2 := storetest.RandomNAR(41, 1000)
		spooled(t, s, b, h).Close()
		held := spooled(t, s, b2, h2)
		time.Sleep(10*time.Minute - 1)
		n, ok := s.Get(h)
		if !ok {
			t.Fatal("the NAR was forgotten too early")
		}
		n.Close()
		time.Sleep(10 * time.Minute)
		if _, ok := s.Get(h); ok {
			t.Error("the NAR is there after ten idle minutes")
		}
		if got := nars(t, dir); len(got) != 1 || !bytes.Equal(storetest.ReadAll(t, held), b2) {
			t.Errorf("files %q, want the one that is held", got)
		}
		held.Close()
	})
}

func TestSpoolIsNobodyElses(t *testing.T) {
	dir := t.TempDir() // is there already, and open to all
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(70, 1000)
	spooled(t, s, b, h)
	create(t, s, h, 1000)
	for _, file := range append(nars(t, dir), ".") {
		if st, err := os.Stat(filepath.Join(dir, file)); err != nil || st.Mode()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v: others may enter", file, st.Mode(), err)
		}
	}
}

func TestSpoolIsExclusive(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(60, 1000)
	n := spooled(t, s, b, h)
	if _, err := spool.Open(spool.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another narbor uses it") {
		t.Errorf("second Open = %v, want to hear of the other one", err)
	}
	if len(nars(t, dir)) != 1 {
		t.Error("the second Open has deleted something")
	}
	d := create(t, s, h, 1000)
	write(t, d, b, 0)
	s.Close()
	if !bytes.Equal(storetest.ReadAll(t, n), b) {
		t.Error("an open handle does not outlive Close")
	}
	if n, err := d.Commit(nil); err == nil {
		t.Errorf("Commit after Close = %v, want an error", n)
	}
	if _, err := s.Create(h, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Create after Close = %v, want ErrClosed", err)
	}
	openSpool(t, spool.Config{Dir: dir})
	n.Close()
}

func BenchmarkDraft(b *testing.B) {
	for name, size := range map[string]int{"4KiB": 4 << 10, "64MiB": 64 << 20} {
		b.Run(name, func(b *testing.B) {
			nar, h := storetest.RandomNAR(70, size)
			s := openSpool(b, spool.Config{})
			b.SetBytes(int64(size))
			for b.Loop() {
				d, err := s.Create(h, int64(size))
				if err != nil {
					b.Fatal(err)
				}
				for off := 0; off < size; off += store.BlockSize {
					write(b, d, nar[off:min(off+store.BlockSize, size)], off)
				}
				n := commit(b, d)
				n.Used()
				n.Close()
			}
		})
	}
}

func BenchmarkSHA256(b *testing.B) {
	const size = 64 << 20
	nar, _ := storetest.RandomNAR(70, size)
	b.SetBytes(size)
	for b.Loop() {
		h := sha256.New()
		for off := 0; off < size; off += store.BlockSize {
			h.Write(nar[off : off+store.BlockSize])
		}
	}
}

func TestDirectoryThatComesBackIsEmptied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	away := dir + ".away"
	s := openSpool(t, spool.Config{Dir: dir})
	nar, h := storetest.RandomNAR(3, 2*store.BlockSize)
	d := create(t, s, h, len(nar))
	write(t, d, nar[:store.BlockSize], 0)
	if err := errors.Join(os.Rename(dir, away), s.Renew(), os.RemoveAll(dir), os.Rename(away, dir), s.Renew()); err != nil {
		t.Fatal(err)
	}
	if got := nars(t, dir); len(got) != 0 {
		t.Errorf("files %q in a directory that came back, want none", got)
	}
	resume(t, s, h, len(nar)) // not with the file that the first draft writes
	write(t, d, nar[store.BlockSize:], store.BlockSize)
	sp, err := d.Commit(nil)
	if err != nil || !bytes.Equal(storetest.ReadAll(t, sp), nar) {
		t.Fatalf("Commit = %v, or another NAR", err)
	}
	sp.Close()
}

// The spool's directory is deleted while it is used: NARs that are being received arrive, open NARs can be read, and
// later NARs have a directory again, which is this spool's alone.
func TestSpoolIsRenewedWhileItIsLookedAt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := openSpool(t, spool.Config{Dir: dir})
	var looking sync.WaitGroup
	defer looking.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looking.Go(func() {
		for ctx.Err() == nil {
			if stats := s.Stats(); stats.Free <= 0 {
				t.Error("Stats knows of no free space")
				return
			}
		}
	})
	for range 20 {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := s.Renew(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSpoolOutlivesItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "spool")
	s := openSpool(t, spool.Config{Dir: dir})
	nar, h := storetest.RandomNAR(1, 100_000)
	d := create(t, s, h, len(nar))
	write(t, d, nar[:50_000], 0)
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	write(t, d, nar[50_000:], 50_000)
	sp, err := d.Commit(nil)
	if err != nil {
		t.Fatalf("Commit = %v after the directory was deleted", err)
	}
	f, err := sp.Open()
	if err != nil {
		t.Fatalf("Open = %v after the directory was deleted", err)
	}
	if got, err := io.ReadAll(io.LimitReader(f, sp.Size())); err != nil || !bytes.Equal(got, nar) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(nar), err)
	}
	f.Close()
	sp.Close()
	if _, ok := s.Get(h); ok {
		t.Error("a NAR without a name is in the spool though it is not held")
	}
	other, h := storetest.RandomNAR(2, 1000)
	d = create(t, s, h, len(other))
	write(t, d, other, 0)
	if sp, err = d.Commit(nil); err != nil {
		t.Fatal(err)
	}
	sp.Close()
	if sp, ok := s.Get(h); !ok {
		t.Error("what came after is not in the spool")
	} else {
		sp.Close()
	}
	if other, err := spool.Open(spool.Config{Dir: dir, MinFree: -1}); err == nil {
		other.Close()
		t.Error("a second spool opens the directory that was made anew")
	}
	if stats := s.Stats(); stats.Entries != 1 || stats.Bytes != 4096 {
		t.Errorf("Stats = %+v, want the one NAR", stats)
	}
}

// A file that cannot be opened any more would take space that nothing counts.
func TestUnopenableFileMakesWayForTheSameNAR(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := openSpool(t, spool.Config{Dir: dir})
	b, h := storetest.RandomNAR(1, 5000)
	first, second := create(t, s, h, len(b)), create(t, s, h, len(b))
	write(t, first, b, 0)
	write(t, second, b, 0)
	commit(t, first).Close()
	file := filepath.Join(dir, slices.Min(nars(t, dir)))                                    // the first draft has the lower number
	if err := errors.Join(os.Remove(file), os.Symlink("/proc/version", file)); err != nil { // it leads out of the directory
		t.Fatal(err)
	}
	commit(t, second).Close()
	if names := nars(t, dir); len(names) != 1 {
		t.Errorf("the directory has %v, want the file of the second draft alone", names)
	}
}
