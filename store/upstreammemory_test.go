package store_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"narbor/store"
)

// Archives as Nix makes them have dictionaries of 8 MiB: eight are unpacked at once, and the next waits for one of them.
func TestUnpackingTakesBoundedMemory(t *testing.T) {
	nar := make([]byte, 9<<20)
	packed := packXZ(t, nar)
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
		t.Errorf("one more than fits into %d bytes is unpacked: %v, %v", store.UnpackMemory, r, err)
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
	nar, _ := randomNAR(1, 50_000)
	packed := packXZ(t, nar)
	u, info := oneCache(t, "Compression: xz\n", nar, func(w http.ResponseWriter, r *http.Request) { w.Write(packed) })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const atOnce = 30
	for range atOnce {
		r, err := u.Stream(t.Context(), info)
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
