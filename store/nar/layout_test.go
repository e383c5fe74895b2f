package nar_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"narbor/store"
	"narbor/store/nar"
	"narbor/store/storetest"
)

func openLayout(tb testing.TB, root string, size int) store.NAR {
	tb.Helper()
	nar, err := nar.OpenLayout(context.Background(), root, int64(size))
	storetest.Must(tb, err)
	tb.Cleanup(func() { nar.Close() })
	return nar
}

func TestArchiveIsWhatNixDumps(t *testing.T) {
	for name, tree := range storetest.Trees {
		t.Run(name, func(t *testing.T) {
			root := tree(t, t.TempDir())
			want := storetest.Dump(t, root)
			nar := openLayout(t, root, len(want))
			got, err := io.ReadAll(io.NewSectionReader(nar, 0, nar.Size()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("archive has %d bytes, %v; nix-store --dump has %d, and they differ", len(got), err, len(want))
			}
			for off := 0; off < len(want); off += max(1, len(want)/500) {
				checkRange(t, nar, want, off, rand.IntN(200))
				checkRange(t, nar, want, off, rand.IntN(3_000))
			}
			checkRange(t, nar, want, rand.IntN(len(want)), len(want))
		})
	}
}

func checkRange(t *testing.T, nar store.NAR, want []byte, off, n int) {
	t.Helper()
	buf := make([]byte, n)
	got, err := nar.ReadAt(buf, int64(off))
	end := min(off+n, len(want))
	if wantErr := off+n > len(want); got != end-off || (err == io.EOF) != wantErr || err != nil && err != io.EOF {
		t.Errorf("ReadAt(%d bytes, %d) of %d = %d, %v", n, off, len(want), got, err)
	}
	if !bytes.Equal(buf[:got], want[off:end]) {
		t.Errorf("ReadAt(%d bytes, %d): wrong bytes", n, off)
	}
}

// TestArchiveReadAtEdges needs no Nix: this is the start of every archive of a file.
func TestArchiveReadAtEdges(t *testing.T) {
	dir := t.TempDir()
	storetest.WriteFile(t, dir+"/f", 13, 0o444)
	const size = 7*16 + 16 // of 13 bytes
	nar, err := nar.OpenLayout(t.Context(), dir+"/f", size)
	storetest.Must(t, err)
	defer nar.Close()
	buf := make([]byte, 21)
	if n, err := nar.ReadAt(buf, 0); n != 21 || err != nil || string(buf) != "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1" {
		t.Errorf("ReadAt(0) = %d, %v, %q", n, err, buf)
	}
	if n, err := nar.ReadAt(buf, size); n != 0 || err != io.EOF {
		t.Errorf("ReadAt at the end = %d, %v, want 0, EOF", n, err)
	}
	if n, err := nar.ReadAt(buf, -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("ReadAt(-1) = %d, %v, want an error", n, err)
	}
	if n, err := nar.ReadAt(nil, 3); n != 0 || err != nil {
		t.Errorf("ReadAt(nothing) = %d, %v, want 0, nil", n, err)
	}
	storetest.Must(t, nar.Close())
	if n, err := nar.ReadAt(make([]byte, size), 0); err == nil {
		t.Errorf("ReadAt after Close = %d, nil, want an error", n)
	}
}

func TestLayoutRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		size int64
		why  string
		make func(dir string) error
	}{
		"too deep": {1 << 20, "nested deeper", func(dir string) error { return os.MkdirAll(dir+"/r"+strings.Repeat("/d", 64), 0o755) }},
		"pipe": {1 << 20, "none of file", func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/r", 0o755), exec.Command("mkfifo", dir+"/r/p").Run())
		}},
		"longer than stated":  {1000, "longer", func(dir string) error { return os.WriteFile(dir+"/r", make([]byte, 1000), 0o444) }},
		"a bit longer":        {1111, "longer", func(dir string) error { return os.WriteFile(dir+"/r", make([]byte, 1000), 0o444) }},
		"shorter than stated": {1113, "1112 bytes", func(dir string) error { return os.WriteFile(dir+"/r", make([]byte, 1000), 0o444) }},
		"many more files": {1000, "more files", func(dir string) error {
			err := os.Mkdir(dir+"/r", 0o755)
			for i := range 1000 {
				err = errors.Join(err, os.Mkdir(fmt.Sprint(dir, "/r/", i), 0o755))
			}
			return err
		}},
	} {
		dir := t.TempDir()
		storetest.Must(t, c.make(dir))
		if _, err := nar.OpenLayout(t.Context(), dir+"/r", c.size); !errors.Is(err, store.ErrCorrupt) ||
			!strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: OpenLayout = %v, want ErrCorrupt because of %q", name, err, c.why)
		}
	}
	if _, err := nar.OpenLayout(t.Context(), t.TempDir()+"/absent", 1000); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("OpenLayout(absent) = %v, want ErrNotFound", err)
	}
}

// TestFilesLargerThanTheArchiveAreRefused has files with sizes that add up to a negative number in 64 bits, and a size
// that the sum of all parts then equals.
func TestFilesLargerThanTheArchiveAreRefused(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "narbor-") // a file system that has such files
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"a", "b"} {
		storetest.WriteFile(t, filepath.Join(dir, name), 7, 0o444)
	}
	size := len(storetest.Dump(t, dir))
	for _, name := range []string{"a", "b"} {
		storetest.Must(t, os.Chmod(filepath.Join(dir, name), 0o644))
		if err := os.Truncate(filepath.Join(dir, name), math.MaxInt64); err != nil {
			t.Skip(err)
		}
	}
	size -= 2*7 + 2 // 2 * math.MaxInt64 is -2
	if nar, err := nar.OpenLayout(t.Context(), dir, int64(size)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("OpenLayout(files of 8 EiB) = %v, %v, want ErrCorrupt", nar, err)
	}
}

// TestChangedFilesAreErrors changes a tree after it has been laid out: no read may deliver anything in place of what
// was there, or end early without an error.
func TestChangedFilesAreErrors(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"shrunk":       func(dir string) error { return os.Truncate(dir+"/sub/f", 99_999) },
		"grown":        func(dir string) error { return os.Truncate(dir+"/sub/f", 100_001) },
		"removed":      func(dir string) error { return os.Remove(dir + "/sub/f") },
		"dir removed":  func(dir string) error { return os.RemoveAll(dir + "/sub") },
		"root removed": func(dir string) error { return os.RemoveAll(dir) },
		"a symlink now": func(dir string) error {
			return errors.Join(os.Rename(dir+"/sub/f", dir+"/f"), os.Symlink("../f", dir+"/sub/f"))
		},
		"dir a symlink": func(dir string) error {
			return errors.Join(os.Rename(dir+"/sub", dir+"/bus"), os.Symlink("bus", dir+"/sub"))
		},
		"a pipe now": func(dir string) error {
			return errors.Join(os.Remove(dir+"/sub/f"), exec.Command("mkfifo", dir+"/sub/f").Run())
		},
		"a directory": func(dir string) error { return errors.Join(os.Remove(dir+"/sub/f"), os.Mkdir(dir+"/sub/f", 0o755)) },
	} {
		dir := t.TempDir() + "/root"
		storetest.WriteFile(t, dir+"/sub/f", 100_000, 0o644)
		size := 100_000 + 448
		nar := openLayout(t, dir, size)
		storetest.Must(t, change(dir))
		n, err := nar.ReadAt(make([]byte, size), 0)
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: ReadAt = %d, %v, want an error other than EOF", name, n, err)
		}
		if strings.Contains(name, "removed") && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: ReadAt = %v, want ErrNotFound", name, err)
		}
	}
}

// TestShrinkingWhileOpen shrinks a file while its descriptor is open, so that only the read itself can notice.
func TestShrinkingWhileOpen(t *testing.T) {
	dir := t.TempDir()
	storetest.WriteFile(t, dir+"/f", 100_000, 0o644)
	nar := openLayout(t, dir+"/f", 100_000+112)
	buf := make([]byte, 50_000)
	if _, err := nar.ReadAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	storetest.Must(t, os.Truncate(dir+"/f", 60_000))
	if n, err := nar.ReadAt(buf, 50_000); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("ReadAt past the new end = %d, %v, want ErrCorrupt", n, err)
	}
}

func TestConcurrentReadsAndDescriptors(t *testing.T) {
	root := storetest.Trees["large"](t, t.TempDir())
	want := storetest.Dump(t, root)
	before := descriptors(t)
	nar := openLayout(t, root, len(want))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				off := rand.IntN(len(want))
				checkRange(t, nar, want, off, rand.IntN(100_000))
			}
		})
	}
	wg.Wait()
	if open := descriptors(t) - before; open < 1 || open > 16 {
		t.Errorf("%d descriptors are open after concurrent reads, want 1 to 16", open)
	}
	storetest.Must(t, nar.Close())
	if open := descriptors(t) - before; open != 0 {
		t.Errorf("%d descriptors are open after Close", open)
	}
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func TestLayoutCache(t *testing.T) {
	dir := t.TempDir()
	var infos []store.Info
	for i := range 20 {
		p, err := store.ParsePathName(fmt.Sprintf("%s-%d", hpCurl, i))
		storetest.Must(t, err)
		storetest.WriteFile(t, filepath.Join(dir, p.Base()), 1000, 0o444)
		infos = append(infos, store.Info{Path: p, NarHash: store.Hash{byte(i)}, NarSize: 1112})
	}
	one, err := nar.LayoutBytes(t.Context(), filepath.Join(dir, infos[0].Path.Base()), 1112)
	storetest.Must(t, err)
	c := nar.NewLayoutCache(10 * one)
	get := func(info store.Info) any {
		t.Helper()
		l, err := c.Get(t.Context(), dir, info)
		storetest.Must(t, err)
		return l
	}
	first := get(infos[0])
	for _, info := range infos[1:] {
		get(info)
		if get(infos[0]) != first {
			t.Fatal("the layout that is used all the time is made again")
		}
	}
	if n, bytes := c.Held(); n != 10 || bytes != 10*one {
		t.Errorf("%d layouts of %d bytes are held, want 10 of %d", n, bytes, 10*one)
	}
	other := infos[0]
	other.NarHash[31] = 1
	if get(other) == first {
		t.Error("one layout serves two hashes")
	}
	other.NarSize++
	if _, err := c.Get(t.Context(), dir, other); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Get of another size = %v, want ErrCorrupt", err)
	}
	p, err := store.ParsePathName(string(hpCurl) + "-large")
	storetest.Must(t, err)
	storetest.Must(t, os.Mkdir(filepath.Join(dir, p.Base()), 0o755))
	for i := range 100 {
		storetest.Must(t, os.Symlink("x", fmt.Sprint(filepath.Join(dir, p.Base()), "/", 100+i)))
	}
	get(store.Info{Path: p, NarSize: int64(len(storetest.Dump(t, filepath.Join(dir, p.Base()))))})
	if n, _ := c.Held(); n != 10 {
		t.Errorf("a layout larger than the cache leaves %d others in it, want 10", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	storetest.Must(t, os.Mkdir(dir+"/"+string(hpCurl)+"-dir", 0o755))
	p, err = store.ParsePathName(string(hpCurl) + "-dir")
	storetest.Must(t, err)
	if _, err := c.Get(ctx, dir, store.Info{Path: p, NarSize: 96}); !errors.Is(err, context.Canceled) {
		t.Errorf("Get = %v, want Canceled", err)
	}
	get(store.Info{Path: p, NarSize: 96}) // the canceled one does not delay others
}

// TestLayoutIsMadeOnce asks for one layout from many sides.
func TestLayoutIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	p, err := store.ParsePathName(string(hpCurl) + "-x")
	storetest.Must(t, err)
	storetest.Must(t, os.Mkdir(filepath.Join(dir, p.Base()), 0o755))
	for i := range 2000 {
		storetest.Must(t, os.Symlink("x", fmt.Sprint(filepath.Join(dir, p.Base()), "/", 1000+i)))
	}
	size := int64(len(storetest.Dump(t, filepath.Join(dir, p.Base()))))
	c := nar.NewLayoutCache(1 << 20)
	layouts := make([]any, 20)
	var wg sync.WaitGroup
	for i := range layouts {
		wg.Go(func() { layouts[i], _ = c.Get(t.Context(), dir, store.Info{Path: p, NarSize: size}) })
	}
	wg.Wait()
	for _, l := range layouts {
		if l == nil || l != layouts[0] {
			t.Fatalf("layouts differ: %v", layouts)
		}
	}
}

func BenchmarkLayout(b *testing.B) {
	root := storetest.Trees["ten thousand"](b, b.TempDir())
	size := int64(len(storetest.Dump(b, root)))
	mem, err := nar.LayoutBytes(b.Context(), root, size)
	storetest.Must(b, err)
	for b.Loop() {
		nar, err := nar.OpenLayout(b.Context(), root, size)
		storetest.Must(b, err)
		nar.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/10001, "µs/node")
	b.ReportMetric(float64(mem)/10001, "B/node")
}

func BenchmarkRead(b *testing.B) {
	for name, tree := range map[string]func(b *testing.B, dir string){
		"one 256 MiB file": func(b *testing.B, dir string) { storetest.WriteFile(b, dir+"/f", 256<<20, 0o444) },
		"10,000 files of 6 KB": func(b *testing.B, dir string) {
			for i := range 10000 {
				storetest.WriteFile(b, fmt.Sprintf("%s/%d/%d", dir, i/50, i), 6000, 0o444)
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			root := b.TempDir()
			tree(b, root)
			size := int64(len(storetest.Dump(b, root)))
			buf := make([]byte, store.BlockSize)
			b.SetBytes(size)
			for b.Loop() {
				nar := openLayout(b, root, int(size))
				for off := int64(0); off < size; off += int64(len(buf)) {
					if _, err := nar.ReadAt(buf, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
				nar.Close()
			}
		})
	}
}
