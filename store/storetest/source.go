package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"narbor/store"
)

// A SourcePath is a path that a source has: the claim, and the archive.
type SourcePath struct {
	Info store.Info
	NAR  []byte
}

// TestSource is the suite that every implementation of [store.Source] passes; src has all of paths, and there is at
// least one. It is called for Mem, for caches, and for the Nix store.
func TestSource(t *testing.T, src store.Source, paths []SourcePath) {
	t.Helper()
	for _, p := range paths {
		t.Run(p.Info.Path.Name(), func(t *testing.T) {
			TestSourceInfo(t, src, p)
			testSourceNAR(t, src, p)
			testSourceSize(t, src, p)
		})
	}
	t.Run("absent", func(t *testing.T) { testSourceAbsent(t, src, paths[0]) })
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if info, err := src.Info(ctx, paths[0].Info.Path.HashPart()); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Info with a cancelled context = %v, %v, want another error than ErrNotFound", info, err)
		}
	})
}

// TestSourceInfo asks a source for a claim twice.
func TestSourceInfo(t *testing.T, src store.Source, p SourcePath) {
	for range 2 { // changing what was returned must not change the source
		info, err := src.Info(t.Context(), p.Info.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		if info.String() != p.Info.String() {
			t.Fatalf("Info =\n%swant\n%s", info, p.Info)
		}
		clear(info.References)
		clear(info.Signatures)
	}
}

func testSourceNAR(t *testing.T, src store.Source, p SourcePath) {
	nar, err := src.NAR(t.Context(), p.Info)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := nar.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	if nar.Size() != int64(len(p.NAR)) || !bytes.Equal(ReadAll(t, nar), p.NAR) {
		t.Fatalf("NAR of %d bytes has other bytes than expected, or not %d", nar.Size(), len(p.NAR))
	}
	size := len(p.NAR)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range 50 {
				off := r.IntN(size)
				b := make([]byte, 1+r.IntN(min(size-off, 5000)))
				if n, err := nar.ReadAt(b, int64(off)); n != len(b) || err != nil && err != io.EOF || !bytes.Equal(b, p.NAR[off:off+n]) {
					t.Errorf("ReadAt(%d bytes, %d) = %d, %v, or other bytes than expected", len(b), off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b := make([]byte, 10)
	if n, err := nar.ReadAt(b, int64(size-3)); n != 3 || err != io.EOF || !bytes.Equal(b[:3], p.NAR[size-3:]) {
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
func testSourceSize(t *testing.T, src store.Source, p SourcePath) {
	for _, size := range []int64{p.Info.NarSize - 8, p.Info.NarSize + 8, 1, store.MaxNarSize} {
		info := p.Info
		info.NarSize = size
		if nar, err := src.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("NAR with NarSize %d in place of %d = %v, %v, want ErrCorrupt", size, p.Info.NarSize, nar, err)
		}
	}
}

func testSourceAbsent(t *testing.T, src store.Source, p SourcePath) {
	digits := []byte(p.Info.Path.Base())
	slices.Reverse(digits[:16])
	path, err := store.ParsePathName(string(digits))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := src.Info(t.Context(), path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info(absent) = %v, %v, want ErrNotFound", info, err)
	}
	info := p.Info
	info.Path = path
	if nar, err := src.NAR(t.Context(), info); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("NAR(absent) = %v, %v, want ErrNotFound", nar, err)
	}
}

// CachePaths reads the paths that the caches in dir hold from the uncompressed one, and compares them with the list
// that Nix wrote.
func CachePaths(t testing.TB, dir string) (paths []SourcePath) {
	t.Helper()
	list, err := os.ReadFile(filepath.Join(dir, "paths"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		var p SourcePath
		base := filepath.Base(strings.Fields(line)[0])
		text, err := os.ReadFile(filepath.Join(dir, "none", base[:32]+".narinfo"))
		if err != nil {
			t.Fatal(err)
		}
		if p.Info, err = store.ParseInfo(string(text)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s %d\n", p.Info.Path, p.Info.NarHash, p.Info.NarSize); got != line {
			t.Fatalf("narinfo says %q, Nix said %q", got, line)
		}
		if p.NAR, err = os.ReadFile(filepath.Join(dir, "none", "nar", p.Info.NarHash.Base32()+".nar")); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}
