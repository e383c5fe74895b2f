package store_test

import (
	"errors"
	"testing"

	"narbor/store"
	"narbor/store/storetest"
)

func TestMemIsASource(t *testing.T) {
	m := new(store.Mem)
	paths := storetest.CachePaths(t, "bincache/testdata/cache")
	for _, p := range paths {
		m.Add(p.Info, p.NAR)
	}
	storetest.TestSource(t, m, paths)
	hp := paths[0].Info.Path.HashPart()
	m.Remove(hp)
	if info, err := m.Info(t.Context(), hp); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info after Remove = %v, %v, want ErrNotFound", info, err)
	}
}
