package bincache_test

import (
	"errors"
	"testing"

	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/storetest"
)

// A compressed NAR that unpacks to more than it should ends there, and not when the disk is full.
func TestCacheUnpacksNoBomb(t *testing.T) {
	dir := storetest.OnTmpfs(t, "285212672") // 272 MiB, of which 256 are left free
	if dir == "" {
		return
	}
	_, info, cache := cacheOf(t, "zstd", 1<<20, storetest.PackZstd(t, make([]byte, 300<<20)))
	c, err := bincache.Open(cache, dir)
	if err != nil {
		t.Fatal(err)
	}
	if nar, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNoSpace) {
		t.Errorf("NAR = %v, %v, want ErrCorrupt", nar, err)
	}
	_, info, cache = cacheOf(t, "zstd", 20<<20, storetest.PackZstd(t, make([]byte, 20<<20)))
	if c, err = bincache.Open(cache, dir); err != nil {
		t.Fatal(err)
	}
	if nar, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("NAR that does not fit = %v, %v, want ErrNoSpace", nar, err)
	}
}
