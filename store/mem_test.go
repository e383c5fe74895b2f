package store_test

import (
	"errors"
	"testing"

	"narbor/store"
)

func TestMemIsASource(t *testing.T) {
	m := new(store.Mem)
	paths := cachePaths(t, goldenCaches)
	for _, p := range paths {
		m.Add(p.info, p.nar)
	}
	testSource(t, m, paths)
	hp := paths[0].info.Path.HashPart()
	m.Remove(hp)
	if info, err := m.Info(t.Context(), hp); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info after Remove = %v, %v, want ErrNotFound", info, err)
	}
}
