package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"narbor/store"
	"narbor/store/storetest"
	"narbor/store/upstream"
)

// Archives as Nix makes them have dictionaries of 8 MiB: eight are unpacked at once, and the next waits for one of
// them.
func TestUnpackingTakesBoundedMemory(t *testing.T) {
	nar := make([]byte, 9<<20)
	packed := storetest.PackXZ(t, nar)
	u, info := oneCache(t, "Compression: xz\n", nar, func(w http.ResponseWriter, r *http.Request) { w.Write(packed) })
	const atOnce = 8
	var open []io.ReadCloser
	for range atOnce {
		r, err := u.Stream(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		open = append(open, r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if r, err := u.Stream(ctx, info); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more than fits into %d bytes is unpacked: %v, %v", upstream.MaxUnpackMemory, r, err)
	}
	if err := open[0].Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := stream(t.Context(), u, info); err != nil || len(b) != len(nar) {
		t.Errorf("after one was closed: %d bytes, %v", len(b), err)
	}
}

// Of a small one no more is taken than there is to refer to, whatever its header says.
func TestUnpackingOfSmallArchivesTakesLittle(t *testing.T) {
	t.Run("xz", func(t *testing.T) { testSmall(t, "xz", storetest.PackXZ) })
	t.Run("zstd", func(t *testing.T) {
		testSmall(t, "zstd", func(t testing.TB, nar []byte) []byte { return packWindow(t, nar, 128<<20) })
	})
}

func testSmall(t *testing.T, compression string, pack func(testing.TB, []byte) []byte) {
	nar, _ := storetest.RandomNAR(1, 50_000)
	packed := pack(t, nar)
	u, info := oneCache(t, "Compression: "+compression+"\n", nar, func(w http.ResponseWriter, r *http.Request) { w.Write(packed) })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const atOnce = 30
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range atOnce {
		r, err := u.Stream(ctx, info)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / atOnce; each > 2<<20 {
		t.Errorf("%d bytes are allocated for an archive of %d", each, len(nar))
	}
	if b, err := stream(t.Context(), u, info); err != nil || string(b) != string(nar) {
		t.Errorf("it unpacks to %d bytes, %v", len(b), err)
	}
}

// packWindow compresses without knowing the length of its input.
func packWindow(t testing.TB, b []byte, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	for first := true; first || len(b) > 0; first = false {
		n, err := w.Write(b[:min(len(b), 1<<20)])
		if b = b[n:]; err == nil && first {
			err = w.Flush() // the header
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// With 66 MiB for all, and a window of 64 MiB at most, one archive with a large window takes the room of all others.
func TestLargeWindowsAreUnpackedOneAtATimeOrNotAtAll(t *testing.T) {
	const most = 64 << 20
	nar := make([]byte, most+most/8)
	one := packWindow(t, nar[:1<<20], 1<<20)
	single := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0x80, 0x04, 3, 0, 0} // 72 MiB in one segment: its window is all of it
	for name, tt := range map[string]struct {
		size   int
		packed []byte
		want   error // instead of the NAR
	}{
		"as large as may be":           {most, packWindow(t, nar[:most], most), nil},
		"larger, but there is no more": {most, packWindow(t, nar[:most], 2*most), nil},
		"larger":                       {len(nar), packWindow(t, nar, 2*most), store.ErrNotFound},
		"all of it":                    {len(nar), single, store.ErrNotFound},
		"larger later":                 {2 << 20, append(slices.Clone(one), packWindow(t, nar[:1<<20], 4<<20)...), store.ErrCorrupt},
		"larger after what is skipped": {len(nar), append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, packWindow(t, nar, 2*most)...),
			store.ErrCorrupt},
		"two pieces": {2 << 20, append(slices.Clone(one), one...), nil},
	} {
		asked := 0
		u, info := oneCache(t, "Compression: zstd\n", nar[:tt.size],
			func(w http.ResponseWriter, r *http.Request) { asked++; w.Write(tt.packed) })
		r, err := u.Stream(t.Context(), info)
		n := int64(0)
		if err == nil {
			if strings.Contains(name, "large") { // no other archive has room
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				if other, err := u.Stream(ctx, info); !errors.Is(err, context.DeadlineExceeded) && tt.size > 2<<20 {
					t.Errorf("%s: another is unpacked at the same time: %v, %v", name, other, err)
				}
				cancel()
			}
			n, err = io.Copy(io.Discard, r)
			r.Close()
		}
		if !errors.Is(err, tt.want) || err == nil && n != int64(tt.size) {
			t.Errorf("%s: %d bytes, %v; want %d, %v", name, n, err, tt.size, tt.want)
		}
		if tt.want != store.ErrNotFound {
			continue
		}
		if _, err := u.Info(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Info afterwards = %v, want ErrNotFound", name, err)
		}
		if _, err := u.Stream(t.Context(), info); !errors.Is(err, store.ErrNotFound) || asked != 1 {
			t.Errorf("%s: Stream again = %v, want ErrNotFound and no further request of %d", name, err, asked)
		}
	}
}
