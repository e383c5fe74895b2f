package bincache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/ulikunitz/xz"

	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/storetest"
)

// goldenCaches was made by Nix, with the script in it.
const goldenCaches = "testdata/cache"

// nixCaches makes such caches, and the chroot store they were copied from, with the Nix of this machine.
func nixCaches(t *testing.T) (dir string) {
	t.Helper()
	storetest.NeedNix(t, "nix", "nix-store", "sh", "seq")
	dir = t.TempDir()
	t.Cleanup(func() { // store paths are read-only
		filepath.WalkDir(filepath.Join(dir, "store"), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	if out, err := exec.Command("sh", filepath.Join(goldenCaches, "make"), dir).CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	return dir
}

func openCache(t testing.TB, dir string) *bincache.Cache {
	t.Helper()
	c, err := bincache.Open(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCacheIsASource(t *testing.T) {
	for name, caches := range map[string]func(t *testing.T) string{
		"golden": func(*testing.T) string { return goldenCaches },
		"live":   nixCaches,
	} {
		t.Run(name, func(t *testing.T) {
			dir := caches(t)
			paths := storetest.CachePaths(t, dir)
			for _, compression := range []string{"none", "xz", "zstd"} {
				t.Run(compression, func(t *testing.T) {
					storetest.TestSource(t, openCache(t, filepath.Join(dir, compression)), paths)
				})
			}
			t.Run("bzip2", func(t *testing.T) {
				c := openCache(t, filepath.Join(dir, "bzip2"))
				hp := paths[0].Info.Path.HashPart()
				if info, err := c.Info(t.Context(), hp); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "bzip2") {
					t.Errorf("Info = %v, %v, want ErrNotFound that names bzip2", info, err)
				}
				if nar, err := c.NAR(t.Context(), paths[0].Info); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("NAR = %v, %v, want ErrNotFound", nar, err)
				}
			})
		})
	}
}

// cacheOf makes a cache with one path of that NarSize and with file as its compressed NAR, and returns the claim.
func cacheOf(t testing.TB, compression string, size int, file []byte) (*bincache.Cache, store.Info, string) {
	t.Helper()
	dir := t.TempDir()
	info := storetest.CachePaths(t, goldenCaches)[0].Info
	info.NarHash, info.NarSize = store.Hash{1}, int64(size)
	writeCache(t, dir, info, "URL: nar/file\nCompression: "+compression+"\n")
	if err := os.WriteFile(filepath.Join(dir, "nar", "file"), file, 0o644); err != nil {
		t.Fatal(err)
	}
	return openCache(t, dir), info, dir
}

func writeCache(t testing.TB, dir string, info store.Info, more string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "nar"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, string(info.Path.HashPart())+".narinfo")
	if err := os.WriteFile(name, []byte(info.String()+more), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCacheRefusesNarinfo(t *testing.T) {
	p := storetest.CachePaths(t, goldenCaches)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, p[0].NAR, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeCache(t, dir, p[0].Info, "")
	if err := errors.Join(os.Symlink(outside, filepath.Join(dir, "nar", "symlink")),
		os.Mkdir(filepath.Join(dir, "nar", "directory"), 0o755),
		syscall.Mkfifo(filepath.Join(dir, "nar", "fifo"), 0o644), os.WriteFile(filepath.Join(dir, "nar", "ok"), p[0].NAR, 0o644),
		os.WriteFile(filepath.Join(dir, "nar", "short"), p[0].NAR[1:], 0o644)); err != nil {
		t.Fatal(err)
	}
	c := openCache(t, dir)
	hp := p[0].Info.Path.HashPart()
	try := func(more string) error {
		writeCache(t, dir, p[0].Info, more)
		_, infoErr := c.Info(t.Context(), hp)
		nar, err := c.NAR(t.Context(), p[0].Info)
		if err == nil {
			nar.Close()
		}
		if c.Has(hp) != (infoErr == nil) {
			t.Errorf("%q: Has = %v, Info = %v", more, c.Has(hp), infoErr)
		}
		return err
	}
	if err := try("URL: nar/ok\nCompression: none\n"); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{
		"", "Compression: none\n", "URL: nar/ok\n", "URL: nar/ok\nCompression: \n", "URL: nar/ok\nCompression: br\n",
		"URL: nar/ok\nCompression: None\n", "URL: \nCompression: none\n",
		"URL: nar/absent\nCompression: none\n", "URL: nar/../nar/ok\nCompression: none\n", "URL: ./nar/ok\nCompression: none\n",
		"URL: " + outside + "\nCompression: none\n", "URL: ../" + filepath.Base(dir) + "/nar/ok\nCompression: none\n",
		"URL: file:nar/ok\nCompression: none\n", "URL: http://127.0.0.1/nar/ok\nCompression: none\n",
	} {
		if err := try(more); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q: NAR = %v, want ErrNotFound", more, err)
		}
	}
	for _, more := range []string{"URL: nar/symlink\n", "URL: nar/directory\n", "URL: nar/fifo\n", "URL: nar/short\n",
		"URL: nar/ok\nURL: nar/ok\n"} {
		if err := try(more + "Compression: none\n"); err == nil {
			t.Errorf("%q: NAR went well", more)
		}
	}
	writeCache(t, dir, p[0].Info, "URL: nar/short\nCompression: none\n")
	if info, err := c.Info(t.Context(), hp); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Info of a path whose NAR is a byte short = %v, %v, want ErrCorrupt", info, err)
	}
	other := p[0].Info
	other.Path = p[1].Info.Path
	for name, text := range map[string]string{
		"another path": other.String() + "URL: nar/ok\nCompression: none\n",
		"not text":     "\x00",
		"too long":     p[0].Info.String() + "URL: nar/ok\nCompression: none\nX: " + strings.Repeat("x", store.MaxInfoLen) + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, string(hp)+".narinfo"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if info, err := c.Info(t.Context(), hp); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Info = %v, %v, want an error, but not that there is none", name, info, err)
		}
	}
	name := filepath.Join(dir, string(hp)+".narinfo")
	if err := errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o644)); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(name, os.O_RDWR, 0) // never written to
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if info, err := c.Info(t.Context(), hp); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info out of a pipe = %v, %v, want an error, but not that there is none", info, err)
	}
	if info, err := c.Info(t.Context(), "../../../../etc/passwd"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info of no hash part = %v, %v, want ErrNotFound", info, err)
	}
}

func TestCacheNarinfoChanges(t *testing.T) {
	p := storetest.CachePaths(t, goldenCaches)[0]
	c, info, dir := cacheOf(t, "none", len(p.NAR), p.NAR)
	changed := info
	changed.NarHash = store.Hash{2}
	writeCache(t, dir, changed, "URL: nar/file\nCompression: none\n")
	if nar, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("NAR of a path that has another NarHash now = %v, %v, want ErrNotFound", nar, err)
	}
	nar, err := c.NAR(t.Context(), changed)
	if err != nil {
		t.Fatal(err)
	}
	defer nar.Close()
	if err := os.Truncate(filepath.Join(dir, "nar", "file"), info.NarSize-1); err != nil {
		t.Fatal(err)
	}
	if n, err := nar.ReadAt(make([]byte, info.NarSize), 0); err == nil || err == io.EOF {
		t.Errorf("ReadAt of a file that has shrunk = %d, %v, want an error", n, err)
	}
}

func TestCacheMayAppearLater(t *testing.T) {
	p := storetest.CachePaths(t, goldenCaches)[0]
	dir := filepath.Join(t.TempDir(), "disk")
	c := openCache(t, dir)
	if info, err := c.Info(t.Context(), p.Info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info without the directory = %v, %v, want ErrNotFound", info, err)
	}
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(goldenCaches, "none"))); err != nil {
		t.Fatal(err)
	}
	if !c.Has(p.Info.Path.HashPart()) {
		t.Error("Has = false when the directory has appeared")
	}
	if err := os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /gnu/store\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := bincache.Open(dir, t.TempDir()); err == nil || !strings.Contains(err.Error(), "/gnu/store") {
		t.Errorf("Open of another store's cache = %v, want to hear of it", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nix-cache-info"), make([]byte, 65<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := bincache.Open(dir, t.TempDir()); err == nil {
		t.Error("Open with a nix-cache-info of 65 KiB went well")
	}
	if _, err := bincache.Open(filepath.Join(dir, "nix-cache-info"), t.TempDir()); err == nil {
		t.Error("Open of a file went well")
	}
}

var packers = map[string]func(testing.TB, []byte) []byte{"xz": storetest.PackXZ, "zstd": storetest.PackZstd}

func TestCacheRefusesBadCompression(t *testing.T) {
	nar, _ := storetest.RandomNAR(1, 20_000)
	nar = append(nar, make([]byte, 20_000)...)
	for compression, pack := range packers {
		good := pack(t, nar)
		flipped := bytes.Clone(good)
		flipped[len(good)/2] ^= 4
		for name, file := range map[string][]byte{
			"cut":                good[:len(good)-1],
			"cut in the middle":  good[:len(good)/2],
			"empty":              nil,
			"extended":           append(bytes.Clone(good), 1),
			"flipped":            flipped,
			"a byte too many":    pack(t, append(bytes.Clone(nar), 0)),
			"a byte too few":     pack(t, nar[1:]),
			"bomb":               pack(t, make([]byte, 5<<20)),
			"not compressed":     nar,
			"other compression":  packers[map[string]string{"xz": "zstd", "zstd": "xz"}[compression]](t, nar),
			"more than could be": append(bytes.Clone(good), make([]byte, 300_000)...),
		} {
			t.Run(compression+" "+name, func(t *testing.T) {
				c, info, _ := cacheOf(t, compression, len(nar), file)
				if got, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("NAR = %v, %v, want ErrCorrupt", got, err)
				}
				if got, err := c.Info(t.Context(), info.Path.HashPart()); name == "more than could be" &&
					!errors.Is(err, store.ErrCorrupt) {
					t.Errorf("Info = %v, %v, want ErrCorrupt", got, err)
				}
			})
		}
	}
}

func TestCacheLimitsMemory(t *testing.T) {
	nar := make([]byte, 100_000)
	greedy := storetest.PackXZ(t, nar) // the block header is 12 bytes at 12; byte 4 of it is the dictionary's size
	if greedy[12] != 2 || greedy[14] != 0x21 {
		t.Fatalf("xz block header % x is not as expected", greedy[12:24])
	}
	greedy[16] = 29 // 96 MiB
	binary.LittleEndian.PutUint32(greedy[20:], crc32.ChecksumIEEE(greedy[12:20]))
	if r, err := xz.NewReader(bytes.NewReader(greedy)); err != nil {
		t.Fatal(err)
	} else if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, nar) {
		t.Fatalf("package xz does not unpack it: %v", err)
	}
	var blocks bytes.Buffer
	w, err := xz.WriterConfig{BlockSize: 1000}.NewWriter(&blocks)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(nar)
	w.Close()
	second := append(storetest.PackXZ(t, nar), greedy...)
	for name, file := range map[string][]byte{"dictionary": greedy, "blocks": blocks.Bytes(), "second stream": second} {
		size := len(nar)
		if name == "second stream" {
			size *= 2
		}
		c, info, _ := cacheOf(t, "xz", size, file)
		if got, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("xz %s: NAR = %v, %v, want ErrCorrupt", name, got, err)
		}
	}
	// One frame of 256 MiB zeros in one segment: its window is all of it.
	z := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10}
	for left := 256 << 20; left > 0; left -= 128 << 10 {
		head := uint32(128<<10)<<3 | 1<<1
		if left == 128<<10 {
			head |= 1
		}
		z = append(z, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	c, info, _ := cacheOf(t, "zstd", 256<<20, z)
	if got, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("zstd window: NAR = %v, %v, want ErrCorrupt", got, err)
	}
}

func TestCacheUnpacksOnce(t *testing.T) {
	nar, _ := storetest.RandomNAR(1, 30_000)
	for compression, pack := range packers {
		file := pack(t, nar)
		_, info, dir := cacheOf(t, compression, len(nar), file)
		scratch := t.TempDir()
		c, err := bincache.Open(dir, scratch)
		if err != nil {
			t.Fatal(err)
		}
		open := func() store.NAR {
			n, err := c.NAR(t.Context(), info)
			if err != nil {
				t.Error(err)
				return nil
			}
			return n
		}
		fd := func(n store.NAR) uintptr { return n.(interface{ Fd() uintptr }).Fd() }
		var nars [8]store.NAR
		var wg sync.WaitGroup
		for i := range nars {
			wg.Go(func() { nars[i] = open() })
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		for _, n := range nars {
			if fd(n) != fd(nars[0]) {
				t.Errorf("%s: unpacked more than once", compression)
			}
			n.Close()
			n.Close()
		}
		n := open()
		if fd(n) != fd(nars[0]) || !bytes.Equal(storetest.ReadAll(t, n), nar) {
			t.Errorf("%s: unpacked again soon after, or other bytes", compression)
		}
		if left, _ := os.ReadDir(scratch); len(left) != 0 {
			t.Errorf("%s: %v are left in the scratch directory", compression, left)
		}
		other := pack(t, append(bytes.Clone(nar[1:]), 'x'))
		if err := os.WriteFile(filepath.Join(dir, "nar", "file"), other, 0o644); err != nil {
			t.Fatal(err)
		}
		again := open()
		if bytes.Equal(storetest.ReadAll(t, again), nar) || !bytes.Equal(storetest.ReadAll(t, n), nar) {
			t.Errorf("%s: a file that has changed is not unpacked again, or changes what is open", compression)
		}
		again.Close()
		n.Close()
	}
}

// A fading context ends when it has been asked so many times.
type fading struct {
	context.Context
	left int
}

func (f *fading) Err() error {
	if f.left--; f.left < 0 {
		return context.Canceled
	}
	return nil
}

// Whenever the caller gives up, the compressed file is not blamed.
func TestCacheUnpackingIsCancelledAnywhere(t *testing.T) {
	nar, _ := storetest.RandomNAR(1, 20_000)
	for compression, pack := range packers {
		ended := false
		for left := 0; !ended; left++ {
			c, info, _ := cacheOf(t, compression, len(nar), pack(t, nar))
			n, err := c.NAR(&fading{t.Context(), left}, info)
			if ended = err == nil; ended {
				n.Close()
			} else if !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: NAR with a context good for %d questions = %v, want Canceled", compression, left, err)
			}
		}
	}
}

// The first caller gives up while others wait for what it unpacks: they do it themselves.
func TestCacheUnpackingIsCancelled(t *testing.T) {
	nar := bytes.Repeat([]byte("some text that takes a while to unpack\n"), 50_000)
	c, info, _ := cacheOf(t, "xz", len(nar), storetest.PackXZ(t, nar))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := c.NAR(ctx, info); err == nil {
			n.Close()
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("NAR = %v, want Canceled", err)
		}
	})
	for range 3 {
		wg.Go(func() {
			n, err := c.NAR(t.Context(), info)
			if err != nil {
				t.Errorf("NAR of another caller = %v", err)
				return
			}
			n.Close()
		})
	}
	cancel()
	wg.Wait()
}

func TestCacheUnpacksAfterFailure(t *testing.T) {
	nar, _ := storetest.RandomNAR(1, 1000)
	_, info, dir := cacheOf(t, "zstd", len(nar), storetest.PackZstd(t, nar))
	scratch := filepath.Join(t.TempDir(), "scratch")
	if err := os.WriteFile(scratch, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := bincache.Open(dir, scratch)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.NAR(t.Context(), info); err == nil || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("NAR with a file as scratch directory = %v, %v, want an error that does not blame the NAR", n, err)
	}
	if err := os.Remove(scratch); err != nil {
		t.Fatal(err)
	}
	n, err := c.NAR(t.Context(), info)
	if err != nil {
		t.Fatalf("NAR, once the scratch directory can be made: %v", err)
	}
	n.Close()
}

func TestCacheKeepsFewUnpacked(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		storetest.Needs(t, err.Error())
	}
	dir, scratch := t.TempDir(), t.TempDir()
	paths := storetest.CachePaths(t, goldenCaches)
	var infos []store.Info
	for i := range 6 {
		info := paths[0].Info
		b := []byte(info.Path.Base())
		b[0] = '0' + byte(i)
		info.Path, _ = store.ParsePathName(string(b))
		infos = append(infos, info)
		writeCache(t, dir, info, fmt.Sprintf("URL: nar/%d\nCompression: zstd\n", i))
		if err := os.WriteFile(filepath.Join(dir, "nar", fmt.Sprint(i)), storetest.PackZstd(t, paths[0].NAR), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	held := func() (n int) {
		fds, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, scratch) {
				n++
			}
		}
		return n
	}
	synctest.Test(t, func(t *testing.T) {
		c, err := bincache.Open(dir, scratch)
		if err != nil {
			t.Fatal(err)
		}
		var nars []store.NAR
		for _, info := range infos {
			n, err := c.NAR(t.Context(), info)
			if err != nil {
				t.Fatal(err)
			}
			nars = append(nars, n)
		}
		if got := held(); got != 6 {
			t.Errorf("%d unpacked NARs are kept while 6 are open", got)
		}
		for _, n := range nars {
			n.Close()
		}
		if got := held(); got != 4 {
			t.Errorf("%d unpacked NARs are kept when all are closed, want 4", got)
		}
		time.Sleep(2 * time.Minute)
		c.Has(infos[0].Path.HashPart())
		if got := held(); got != 0 {
			t.Errorf("%d unpacked NARs are kept two minutes later, want none", got)
		}
	})
}

func TestCacheAddReadableByNix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "cache")
	c := openCache(t, dir)
	paths := storetest.CachePaths(t, goldenCaches)
	for _, p := range paths {
		if c.Has(p.Info.Path.HashPart()) {
			t.Fatal("Has = true before Add")
		}
		if err := c.Add(p.Info, bytes.NewReader(p.NAR)); err != nil {
			t.Fatal(err)
		}
		if !c.Has(p.Info.Path.HashPart()) {
			t.Error("Has = false after Add")
		}
		if err := c.Add(p.Info, bytes.NewReader(p.NAR)); err != nil {
			t.Errorf("second Add: %v", err)
		}
	}
	storetest.TestSource(t, openCache(t, dir), paths)
	got, _ := os.ReadFile(filepath.Join(dir, "nix-cache-info"))
	if want := "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"; string(got) != want {
		t.Errorf("nix-cache-info is %q, want %q", got, want)
	}

	storetest.NeedNix(t, "nix", "nix-store")
	to := t.TempDir()
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", to).Run() })
	for _, p := range paths {
		cmd := exec.Command("nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs",
			"--from", "file://"+dir, "--to", to, p.Info.Path.String())
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "NIX_CONFIG=build-users-group =\nsubstitute = false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nix copy --from: %v\n%s", err, out)
		}
		if got := storetest.Dump(t, filepath.Join(to, p.Info.Path.String())); !bytes.Equal(got, p.NAR) {
			t.Errorf("%s: Nix has unpacked something else", p.Info.Path)
		}
	}
}

func TestCacheAddRefuses(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir)
	p := storetest.CachePaths(t, goldenCaches)[0]
	flipped := bytes.Clone(p.NAR)
	flipped[50] ^= 1
	fail := errors.New("the network went away")
	injected := p.Info
	injected.Signatures = []string{"a:b\nURL: ../../x"}
	for name, try := range map[string]struct {
		info store.Info
		nar  io.Reader
		want error
	}{
		"flipped":   {p.Info, bytes.NewReader(flipped), store.ErrCorrupt},
		"cut":       {p.Info, bytes.NewReader(p.NAR[:len(p.NAR)-1]), store.ErrCorrupt},
		"extended":  {p.Info, bytes.NewReader(append(bytes.Clone(p.NAR), 0)), store.ErrCorrupt},
		"broken":    {p.Info, io.MultiReader(bytes.NewReader(p.NAR[:50]), iotest.ErrReader(fail)), fail},
		"injection": {injected, bytes.NewReader(p.NAR), store.ErrCorrupt},
	} {
		if err := c.Add(try.info, try.nar); !errors.Is(err, try.want) {
			t.Errorf("%s: Add = %v, want %v", name, err, try.want)
		}
		if c.Has(p.Info.Path.HashPart()) {
			t.Errorf("%s: Has = true", name)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "nar", "*")); left != nil {
			t.Errorf("%s: %q is left", name, left)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".tmp", "*")); left != nil {
			t.Errorf("%s: %q is left", name, left)
		}
	}
	if err := c.Add(store.Info{}, bytes.NewReader(nil)); err == nil {
		t.Error("Add of no path went well")
	}
}

func TestCacheAddSweepsLeftovers(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, ".tmp", "old"), filepath.Join(dir, ".tmp", "young")
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := errors.Join(os.Mkdir(filepath.Dir(old), 0o755), os.WriteFile(old, nil, 0o644), os.WriteFile(young, nil, 0o644),
		os.Chtimes(old, yesterday, yesterday)); err != nil {
		t.Fatal(err)
	}
	p := storetest.CachePaths(t, goldenCaches)[0]
	if err := openCache(t, dir).Add(p.Info, bytes.NewReader(p.NAR)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".tmp", "*")); len(left) != 1 || left[0] != young {
		t.Errorf("%q are left, want only the young one", left)
	}
}

func FuzzUnpack(f *testing.F) {
	nar := bytes.Repeat([]byte("nix-archive-1"), 500)
	for compression, pack := range packers {
		f.Add(compression == "xz", pack(f, nar))
	}
	dirs, spool := map[bool]string{}, f.TempDir()
	_, _, dirs[false] = cacheOf(f, "zstd", len(nar), nil)
	_, info, dir := cacheOf(f, "xz", len(nar), nil)
	dirs[true] = dir
	f.Fuzz(func(t *testing.T, isXZ bool, file []byte) {
		storetest.Must(t, os.WriteFile(filepath.Join(dirs[isXZ], "nar", "file"), file, 0o644))
		c, err := bincache.Open(dirs[isXZ], spool)
		storetest.Must(t, err)
		n, err := c.NAR(t.Context(), info)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("NAR = %v, want ErrCorrupt", err)
			}
			return
		}
		defer n.Close()
		if b := storetest.ReadAll(t, n); len(b) != len(nar) {
			t.Errorf("%d bytes, want %d", len(b), len(nar))
		}
	})
}
