package spool_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
)

// ballast leaves free bytes on a disk.
func ballast(t *testing.T, dir string, free int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if size := int64(st.Bavail)*st.Bsize - free; size > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
			t.Fatal(err)
		}
	}
}

// However full the disk is, at whatever moment: the NAR is refused for lack of space, or right.
func TestSpoolFullDisk(t *testing.T) {
	dir := storetest.OnTmpfs(t, "16777216")
	if dir == "" {
		return
	}
	s := openSpool(t, spool.Config{Dir: filepath.Join(dir, "spool")})
	b, h := storetest.RandomNAR(1, 8<<20)
	var refusedFirst, refusedLater, ended int
	for i := range 50 {
		ballast(t, dir, int64(i)*330_000)
		d, err := s.Create(h, int64(len(b)))
		if err != nil {
			if !errors.Is(err, store.ErrNoSpace) || s.Stats().Bytes != 0 || len(nars(t, filepath.Join(dir, "spool"))) != 0 {
				t.Fatalf("Create with %d bytes free = %v, %+v is left, want ErrNoSpace and nothing", i*330_000, err, s.Stats())
			}
			refusedFirst++
			continue
		}
		ballast(t, dir, int64(i-20)*330_000) // another program takes the space
		fill := func() (err error) {
			for off := 0; off < len(b); off += store.BlockSize {
				_, e := d.WriteAt(b[off:off+store.BlockSize], int64(off))
				err = errors.Join(err, e)
			}
			return err
		}
		if err = fill(); err != nil {
			refusedLater++
			if !errors.Is(err, store.ErrNoSpace) || !bytes.Contains([]byte(err.Error()), []byte(dir)) {
				t.Fatalf("WriteAt to a full disk = %v, want ErrNoSpace that names the spool", err)
			}
			if n, err := d.Commit(nil); err == nil || errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("Commit after a full disk = %v, %v, want an error that blames no peer", n, err)
			}
			ballast(t, dir, 16<<20)
			if err := fill(); err != nil {
				t.Fatal(err)
			}
		}
		n := commit(t, d)
		if !bytes.Equal(storetest.ReadAll(t, n), b) {
			t.Fatal("other bytes")
		}
		n.Used()
		n.Close()
		ended++
	}
	if refusedFirst == 0 || refusedLater == 0 || ended == 0 || s.Stats().Bytes != 0 {
		t.Errorf("%d refused by Create, %d by WriteAt, %d ended well, %+v: want some of each, and nothing left",
			refusedFirst, refusedLater, ended, s.Stats())
	}
}

// Idle NARs give way when others fill the disk to the floor.
func TestSpoolEvictsForTheFloor(t *testing.T) {
	dir := storetest.OnTmpfs(t, "16777216")
	if dir == "" {
		return
	}
	s := openSpool(t, spool.Config{Dir: filepath.Join(dir, "spool"), MinFree: 4 << 20})
	var hashes []store.Hash
	for i := range 3 {
		b, h := storetest.RandomNAR(uint64(i), 3<<20)
		hashes = append(hashes, h)
		spooled(t, s, b, h).Close()
	}
	n, _ := s.Get(hashes[0])
	defer n.Close()
	if _, err := s.Create(hashes[0], 10<<20); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Create of what would leave less than the floor = %v, want ErrNoSpace", err)
	}
	d := create(t, s, hashes[0], 8<<20)
	defer d.Discard()
	if st := s.Stats(); st.Entries != 1 || st.Bytes != 11<<20 {
		t.Errorf("Stats = %+v, want the NAR that is held and the draft", st)
	}
}

// Bytes hashed beside a write that failed are not in the hash of the bytes written in their place.
func TestSpoolForgetsWhatWasNotWritten(t *testing.T) {
	dir := storetest.OnTmpfs(t, "16777216")
	if dir == "" {
		return
	}
	s := openSpool(t, spool.Config{Dir: filepath.Join(dir, "spool")})
	b, h := storetest.RandomNAR(1, 2*store.BlockSize)
	d := create(t, s, h, len(b))
	ballast(t, dir, 0)
	if _, err := d.WriteAt(make([]byte, store.BlockSize), 0); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("WriteAt to a full disk = %v, want ErrNoSpace", err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	write(t, d, b, 0)
	commit(t, d).Close()
}

// The bytes that drafts have still to write are not free.
func TestSpoolCountsWhatIsToCome(t *testing.T) {
	dir := storetest.OnTmpfs(t, "16777216")
	if dir == "" {
		return
	}
	s := openSpool(t, spool.Config{Dir: filepath.Join(dir, "spool"), MinFree: 2 << 20})
	b, h := storetest.RandomNAR(1, 6<<20)
	first := create(t, s, h, len(b))
	write(t, first, b[:4<<20], 0)
	second := create(t, s, h, len(b))
	if _, err := s.Create(h, 6<<20); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Create of a third draft of 6 MiB where 8 are free, and 8 are to come = %v, want ErrNoSpace", err)
	}
	first.Discard()
	write(t, second, b, 0)
	third := create(t, s, h, len(b))
	third.Discard()
	n := commit(t, second)
	n.Used()
	n.Close()
	create(t, s, h, 13<<20).Discard()
}

// /proc has no blocks, as some network file systems.
func TestDiskThatDoesNotKnowItsFreeSpaceTakesNARs(t *testing.T) {
	s := openSpool(t, spool.Config{MinFree: 1 << 20})
	proc, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	s.OnDiskOf(proc, 1<<30)
	if err := s.Fits(1000); err != nil {
		t.Errorf("Fits = %v, want none", err)
	}
	if free := s.Stats().Free; free != -1 {
		t.Errorf("Stats has %d bytes free, want -1", free)
	}
}
