package bincache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"narbor/store"
)

// needNix skips a test that runs Nix's own programs where they are not installed; under CI=true they must be.
func needNix(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			needs(tb, err.Error())
		}
	}
}

func needs(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("CI=true, but: %s", what)
	}
	tb.Skip(what)
}

// dump returns what Nix makes of path.
func dump(tb testing.TB, path string) []byte {
	tb.Helper()
	needNix(tb, "nix-store")
	cmd := exec.Command("nix-store", "--dump", path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("nix-store --dump %s: %v: %s", path, err, stderr.String())
	}
	return out
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// words writes strings as an archive has them.
func words(list ...string) string {
	var b []byte
	for _, s := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
		b = append(b, make([]byte, -len(s)&7)...)
	}
	return string(b)
}

func archive(node string) string { return words("nix-archive-1") + node }

func file(contents string) string {
	return words("(", "type", "regular", "contents", contents, ")")
}

// A sourcePath is a path that a source has: what it claims, and the archive.
type sourcePath struct {
	info store.Info
	nar  []byte
}

// testSource is what every implementation of [store.Source] has to pass; src has all of paths, and there is at least
// one. It is called for Mem, for caches, and for the Nix store.
func testSource(t *testing.T, src store.Source, paths []sourcePath) {
	t.Helper()
	for _, p := range paths {
		t.Run(p.info.Path.Name(), func(t *testing.T) {
			testSourceInfo(t, src, p)
			testSourceNAR(t, src, p)
			testSourceSize(t, src, p)
		})
	}
	t.Run("absent", func(t *testing.T) { testSourceAbsent(t, src, paths[0]) })
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if info, err := src.Info(ctx, paths[0].info.Path.HashPart()); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Info with a cancelled context = %v, %v, want another error than ErrNotFound", info, err)
		}
	})
}

func testSourceInfo(t *testing.T, src store.Source, p sourcePath) {
	for range 2 { // changing what was returned must not change the source
		info, err := src.Info(t.Context(), p.info.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		if info.String() != p.info.String() {
			t.Fatalf("Info =\n%swant\n%s", info, p.info)
		}
		clear(info.References)
		clear(info.Signatures)
	}
}

func testSourceNAR(t *testing.T, src store.Source, p sourcePath) {
	nar, err := src.NAR(t.Context(), p.info)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := nar.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	if nar.Size() != int64(len(p.nar)) || !bytes.Equal(readAll(t, nar), p.nar) {
		t.Fatalf("NAR of %d bytes has other bytes than expected, or not %d", nar.Size(), len(p.nar))
	}
	size := len(p.nar)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range 50 {
				off := r.IntN(size)
				b := make([]byte, 1+r.IntN(min(size-off, 5000)))
				if n, err := nar.ReadAt(b, int64(off)); n != len(b) || err != nil && err != io.EOF || !bytes.Equal(b, p.nar[off:off+n]) {
					t.Errorf("ReadAt(%d bytes, %d) = %d, %v, or other bytes than expected", len(b), off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b := make([]byte, 10)
	if n, err := nar.ReadAt(b, int64(size-3)); n != 3 || err != io.EOF || !bytes.Equal(b[:3], p.nar[size-3:]) {
		t.Errorf("ReadAt 3 bytes before the end = %d, %v, want 3, EOF", n, err)
	}
	for _, off := range []int64{int64(size), int64(size) + 1, 1 << 60} {
		if n, err := nar.ReadAt(b, off); n != 0 || err != io.EOF {
			t.Errorf("ReadAt(10 bytes, %d) of %d = %d, %v, want 0, EOF", off, size, n, err)
		}
	}
	if n, err := nar.ReadAt(b, -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("ReadAt at -1 = %d, %v, want an error", n, err)
	}
}

// testSourceSize asks for NARs that the path cannot have.
func testSourceSize(t *testing.T, src store.Source, p sourcePath) {
	for _, size := range []int64{p.info.NarSize - 8, p.info.NarSize + 8, 1, store.MaxNarSize} {
		info := p.info
		info.NarSize = size
		if nar, err := src.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("NAR with NarSize %d in place of %d = %v, %v, want ErrCorrupt", size, p.info.NarSize, nar, err)
		}
	}
}

func testSourceAbsent(t *testing.T, src store.Source, p sourcePath) {
	digits := []byte(p.info.Path.Base())
	slices.Reverse(digits[:16])
	path, err := store.ParsePathName(string(digits))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := src.Info(t.Context(), path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info(absent) = %v, %v, want ErrNotFound", info, err)
	}
	info := p.info
	info.Path = path
	if nar, err := src.NAR(t.Context(), info); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("NAR(absent) = %v, %v, want ErrNotFound", nar, err)
	}
}

// randomNAR returns the NAR of a file, the same for the same seed, and its hash. It has size bytes, or the few more
// that a NAR must have.
func randomNAR(seed uint64, size int) ([]byte, store.Hash) {
	contents := make([]byte, max(0, size-len(archive(file("")))))
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(contents)
	b := []byte(archive(file(string(contents))))
	return b, sha256.Sum256(b)
}

func readAll(t testing.TB, n store.NAR) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
