package spool_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
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

// resume goes on with a NAR, and checks which blocks are there.
func resume(t testing.TB, s *spool.Spool, h store.Hash, size int, want ...int) *spool.Draft {
	t.Helper()
	d, err := s.Resume(h, int64(size))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Keep)
	if got := d.Reuse(t.Context()); !slices.Equal(got, want) {
		t.Fatalf("Reuse = %v, want blocks %v", got, want)
	}
	return d
}

// writeBlocks writes some blocks of a NAR.
func writeBlocks(t testing.TB, d *spool.Draft, nar []byte, blocks ...int) {
	t.Helper()
	for _, i := range blocks {
		off := i * store.BlockSize
		write(t, d, nar[off:off+store.BlockLen(int64(len(nar)), i)], off)
	}
}

// crash copies a spool's directory as a kill of its process would leave it at this moment.
func crash(t testing.TB, dir string) (copied string) {
	t.Helper()
	copied = filepath.Join(t.TempDir(), "spool")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return copied
}

func TestDraftGoesOnWhereAnEarlierOneEnded(t *testing.T) {
	nar, h := storetest.RandomNAR(1, 4*store.BlockSize+100)
	for name, next := range map[string]func(s *spool.Spool, d *spool.Draft, dir string) *spool.Spool{
		"kept": func(s *spool.Spool, d *spool.Draft, _ string) *spool.Spool { d.Keep(); return s },
		"closed": func(s *spool.Spool, _ *spool.Draft, dir string) *spool.Spool {
			s.Close()
			return openSpool(t, spool.Config{Dir: dir})
		},
		"killed": func(_ *spool.Spool, _ *spool.Draft, dir string) *spool.Spool {
			return openSpool(t, spool.Config{Dir: crash(t, dir)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openSpool(t, spool.Config{Dir: dir})
			d := create(t, s, h, len(nar))
			writeBlocks(t, d, nar, 0, 2, 4)
			write(t, d, nar[3*store.BlockSize:][:1000], 3*store.BlockSize) // not a whole block
			s = next(s, d, dir)
			if _, ok := s.Get(h); ok {
				t.Fatal("a part of a NAR is there as a NAR")
			}
			d = resume(t, s, h, len(nar), 0, 2, 4)
			if n, err := d.Commit(nil); err == nil {
				t.Fatalf("Commit of a part = %v, want an error", n)
			}
			buf := make([]byte, 10)
			if _, err := d.ReadAt(buf, 2*store.BlockSize); err != nil || !bytes.Equal(buf, nar[2*store.BlockSize:][:10]) {
				t.Errorf("ReadAt of a block that was there: %v, %v", buf, err)
			}
			writeBlocks(t, d, nar, 1, 3)
			n := commit(t, d)
			if !bytes.Equal(storetest.ReadAll(t, n), nar) {
				t.Error("other bytes")
			}
			n.Used()
			n.Close()
			if st := s.Stats(); st.Bytes != 0 {
				t.Errorf("Stats = %+v after use, want nothing", st)
			}
		})
	}
}

func TestVerifiedNARIsCheckedAnewAfterARestart(t *testing.T) {
	nar, h := storetest.RandomNAR(2, 2*store.BlockSize)
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	spooled(t, s, nar, h).Close()
	s.Close()
	s = openSpool(t, spool.Config{Dir: dir})
	if _, ok := s.Get(h); ok || s.Has(h) {
		t.Fatal("the NAR of an earlier process is there without a check")
	}
	n := commit(t, resume(t, s, h, len(nar), 0, 1))
	defer n.Close()
	if !bytes.Equal(storetest.ReadAll(t, n), nar) || s.Stats().Verified != 1 {
		t.Error("other bytes, or not checked")
	}
}

// Only the blocks that are damaged on disk are missing.
func TestDamagedBlocksAreNotReused(t *testing.T) {
	nar, h := storetest.RandomNAR(3, 4*store.BlockSize)
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	d := create(t, s, h, len(nar))
	writeBlocks(t, d, nar, 0, 1, 2, 3)
	s.Close()
	name := filepath.Join(dir, nars(t, dir)[0])
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte{nar[store.BlockSize+77] ^ 1}, store.BlockSize+77)
	f.WriteAt([]byte{0, 0, 0, 0}, int64(len(nar))+3*4) // its checksum was not written
	s = openSpool(t, spool.Config{Dir: dir})
	d = resume(t, s, h, len(nar), 0, 2)
	writeBlocks(t, d, nar, 1, 3)
	n := commit(t, d)
	defer n.Close()
	if !bytes.Equal(storetest.ReadAll(t, n), nar) {
		t.Error("other bytes")
	}
}

// Wrong bytes with the right checksum end in a wrong hash, and are of no use to a later draft.
func TestWrongNARIsNotKept(t *testing.T) {
	nar, h := storetest.RandomNAR(4, 3*store.BlockSize)
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	d := create(t, s, h, len(nar))
	wrong := bytes.Clone(nar)
	wrong[store.BlockSize] ^= 1
	writeBlocks(t, d, wrong, 0, 1)
	d.Keep()
	d = resume(t, s, h, len(nar), 0, 1)
	writeBlocks(t, d, nar, 2)
	if n, err := d.Commit(nil); err == nil {
		t.Fatalf("Commit of wrong bytes = %v", n)
	}
	killed := openSpool(t, spool.Config{Dir: crash(t, dir)})
	resume(t, killed, h, len(nar))
	d.Keep()
	if got := nars(t, dir); len(got) != 0 {
		t.Errorf("files %v after a wrong hash, want none", got)
	}
	resume(t, s, h, len(nar))
}

func TestMalformedNARIsNotKept(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	b := []byte(storetest.Archive(storetest.Directory(storetest.Entry("b", storetest.File("")), storetest.Entry("a", storetest.File("")))))
	d := create(t, s, sha256.Sum256(b), len(b))
	write(t, d, b, 0)
	if n, err := d.Commit(nil); err == nil {
		t.Fatalf("Commit of a malformed NAR = %v", n)
	}
	d.Keep()
	if got := nars(t, dir); len(got) != 0 {
		t.Errorf("files %v, want none", got)
	}
}

// A write that is under way when a draft ends is over before another draft has the file.
func TestKeepWaitsForWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, spool.Config{Dir: t.TempDir()})
		nar, h := storetest.RandomNAR(5, 2*store.BlockSize)
		d := create(t, s, h, len(nar))
		writeBlocks(t, d, nar, 0)
		end, err := d.BeginWrite(nar[store.BlockSize:], store.BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		kept := make(chan struct{})
		go func() { d.Keep(); close(kept) }()
		synctest.Wait()
		select {
		case <-kept:
			t.Error("Keep has not waited for a write")
		default:
		}
		end(nil)
		<-kept
	})
}

func TestFilesOfNoUseAreDeletedAtTheStart(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	nar, h := storetest.RandomNAR(6, 2*store.BlockSize+1)
	d := create(t, s, h, len(nar))
	writeBlocks(t, d, nar, 0)
	d.Keep()
	s.Close()
	good := nars(t, dir)[0]
	content, err := os.ReadFile(filepath.Join(dir, good))
	if err != nil {
		t.Fatal(err)
	}
	prefix := strings.TrimSuffix(good, "-1.nar")
	for name, b := range map[string][]byte{
		"x.nar":                      content,                          // no hash
		prefix + ".nar":              content,                          // no number
		prefix + "-01.nar":           content,                          // not as narbor writes it
		prefix + "-9.nar":            content[:len(content)-1],         // cut
		prefix + "-10.nar":           append(slices.Clone(content), 0), // too long
		prefix + "-11.nar":           make([]byte, len(content)),       // no block
		h.Base32() + "-1-12.nar":     content,                          // another size
		h.Base32() + "-0-13.nar":     nil,                              // no NAR has that size
		h.Base32()[1:] + "-1-14.nar": {1, 2, 3, 4, 5},                  // half a hash
		h.Base32() + "--1-15.nar":    {1, 2, 3, 4, 5},                  //
		"precious":                   nil,                              // not narbor's
		prefix + "-16.nar.bak":       content,                          // not narbor's
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(good, filepath.Join(dir, prefix+"-17.nar")); err != nil {
		t.Fatal(err)
	}
	s = openSpool(t, spool.Config{Dir: dir})
	want := []string{good, prefix + "-16.nar.bak", "precious"}
	slices.Sort(want)
	if got := nars(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	resume(t, s, h, len(nar), 0)
}

func TestKeptDraftsAreBounded(t *testing.T) {
	const size = 2 * store.BlockSize
	keep := func(s *spool.Spool, seed uint64) store.Hash {
		nar, h := storetest.RandomNAR(seed, size)
		d := create(t, s, h, size)
		writeBlocks(t, d, nar, 0)
		d.Keep()
		return h
	}
	here := func(s *spool.Spool, h store.Hash) bool {
		d, err := s.Resume(h, size)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Keep()
		return len(d.Reuse(t.Context())) > 0
	}
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir, MaxBytes: 4 * size})
	nar, verified := storetest.RandomNAR(10, size)
	spooled(t, s, nar, verified).Close()
	first, second := keep(s, 11), keep(s, 12)
	if st := s.Stats(); st.Bytes != size+2*store.BlockSize {
		t.Errorf("Stats = %+v, want a NAR and two blocks", st)
	}
	_, h := storetest.RandomNAR(13, size+store.BlockSize*3) // leaves room for three blocks
	d := create(t, s, h, size+store.BlockSize*3)
	d.Discard()
	if !s.Has(verified) || here(s, first) || !here(s, second) {
		t.Error("a new draft did not make room by the oldest kept draft alone")
	}
	d, err := s.Create(h, 4*size)
	if err != nil {
		t.Fatalf("Create of what takes all = %v", err)
	}
	d.Discard()
	if s.Has(verified) || here(s, second) || len(nars(t, dir)) != 0 {
		t.Errorf("files %v, want none", nars(t, dir))
	}
	s = openSpool(t, spool.Config{})
	var all []store.Hash
	for i := range uint64(spool.MaxKept + 1) {
		all = append(all, keep(s, 100+i))
	}
	if here(s, all[0]) || !here(s, all[1]) {
		t.Error("the number of kept drafts is not bounded, or others than the oldest have gone")
	}
}

func TestKeptDraftsOverTheCapAreDeletedAtTheStart(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	now := time.Now()
	var all []store.Hash
	for i := range 3 {
		nar, h := storetest.RandomNAR(uint64(20+i), store.BlockSize)
		all = append(all, h)
		d := create(t, s, h, len(nar))
		write(t, d, nar, 0)
		d.Keep()
		at := now.Add(time.Duration(i-3) * time.Hour)
		if i == 0 {
			at = now.Add(-25 * time.Hour)
		}
		for _, name := range nars(t, dir) {
			if strings.HasPrefix(name, h.Base32()) {
				if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.Close()
	s = openSpool(t, spool.Config{Dir: dir})
	if got := len(nars(t, dir)); got != 2 {
		t.Errorf("%d files, want all but the one of the day before yesterday", got)
	}
	s.Close()
	s = openSpool(t, spool.Config{Dir: dir, MaxBytes: store.BlockSize})
	if got := nars(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], all[2].Base32()) || s.Stats().Bytes != store.BlockSize {
		t.Errorf("files %v, want the newest alone", got)
	}
	s.Close()
	openSpool(t, spool.Config{Dir: dir, MinFree: 1 << 60})
	if got := nars(t, dir); len(got) != 0 {
		t.Errorf("files %v on a disk that is too full, want none", got)
	}
}

func TestKeptDraftsAreForgottenAfterADay(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, spool.Config{Dir: dir})
		nar, h := storetest.RandomNAR(7, store.BlockSize)
		for want, after := range []time.Duration{24 * time.Hour, 24*time.Hour - 1} {
			d := create(t, s, h, len(nar))
			write(t, d, nar, 0)
			d.Keep()
			time.Sleep(after)
			s.Expire()
			if got := len(nars(t, dir)); got != want {
				t.Errorf("%d files after %v, want %d", got, after, want)
			}
		}
	})
}

func TestDraftOfTheFutureIsForgottenAfterADay(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, spool.Config{Dir: dir})
	nar, h := storetest.RandomNAR(9, store.BlockSize)
	write(t, create(t, s, h, len(nar)), nar, 0)
	s.Close()
	synctest.Test(t, func(t *testing.T) { // its clock is years behind the time of the file
		s := openSpool(t, spool.Config{Dir: dir})
		time.Sleep(24*time.Hour - 1)
		s.Expire()
		if got := len(nars(t, dir)); got != 1 {
			t.Errorf("%d files within a day, want 1", got)
		}
		time.Sleep(time.Nanosecond)
		s.Expire()
		if got := len(nars(t, dir)); got != 0 {
			t.Errorf("%d files after a day, want none", got)
		}
	})
}

// A draft that ends before it has looked at what was left leaves it.
func TestUnreadLeftoversAreKept(t *testing.T) {
	s := openSpool(t, spool.Config{})
	nar, h := storetest.RandomNAR(8, 2*store.BlockSize)
	d := create(t, s, h, len(nar))
	writeBlocks(t, d, nar, 1)
	d.Keep()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		d, err := s.Resume(h, int64(len(nar)))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(d.Reuse(ended)); got != "[]" {
			t.Errorf("Reuse after the end of its context = %s", got)
		}
		d.Keep()
	}
	resume(t, s, h, len(nar), 1)
}

// openFiles counts the files below a directory that this process has open.
func openFiles(t testing.TB, dir string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		storetest.Needs(t, "no /proc")
	}
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(name, dir) {
			n++
		}
	}
	return n
}

func TestCloseEndsDraftsThatAreBegunMeanwhile(t *testing.T) {
	dir := t.TempDir()
	for range 20 {
		s := openSpool(t, spool.Config{Dir: dir})
		for i := range uint64(100) {
			nar, h := storetest.RandomNAR(i, 200)
			d := create(t, s, h, len(nar))
			write(t, d, nar, 0)
			d.Keep()
		}
		var all sync.WaitGroup
		begun := make(chan struct{}, 100)
		all.Go(func() {
			for i := range uint64(100) {
				_, h := storetest.RandomNAR(i, 200)
				if _, err := s.Resume(h, 200); err != nil {
					break
				}
				begun <- struct{}{}
			}
		})
		for range 10 {
			<-begun
		}
		s.Close()
		all.Wait()
		if got := openFiles(t, dir); got != 0 {
			t.Fatalf("%d files are open after Close, want none", got)
		}
	}
}
