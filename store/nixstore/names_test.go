package nixstore_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/nixstore"
	"narbor/store/storetest"
)

func randomHashPart() store.HashPart {
	var id [20]byte
	_, _ = rand.Read(id[:])
	return store.HashPartFromBytes(id)
}

// missAll asks for so many absent paths that the names of the store are worth reading.
func missAll(t *testing.T, n *nixstore.Store) {
	t.Helper()
	for range 100 {
		if info, err := n.Info(t.Context(), randomHashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("Info(absent) = %+v, %v, want ErrNotFound", info, err)
		}
	}
}

func TestDaemonIsNotAskedAboutManyAbsentPaths(t *testing.T) {
	w := newWorld(t)
	n := open(t, w.config())
	dir := filepath.Join(w.root, store.Dir)
	long := time.Now().Add(-time.Hour)
	storetest.Must(t, os.Chtimes(dir, long, long))
	missAll(t, n)
	if info, err := n.Info(t.Context(), w.file.HashPart()); err != nil || info.Path != w.file {
		t.Errorf("Info(%s) after many misses = %+v, %v", w.file, info, err)
	}
	storetest.Must(t, n.Close()) // no daemon from here on
	missAll(t, n)
	hp := randomHashPart()
	storetest.Must(t, os.WriteFile(filepath.Join(dir, string(hp)+"-new"), nil, 0o444))
	if info, err := n.Info(t.Context(), hp); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info(new file) without a daemon = %+v, %v, want that the daemon was missed", info, err)
	}
}

func TestDaemonIsAskedWhileTheStoreChanges(t *testing.T) {
	w := newWorld(t)
	n := open(t, w.config())
	soon := time.Now().Add(time.Hour) // whenever the test gets there, the change is recent
	storetest.Must(t, os.Chtimes(filepath.Join(w.root, store.Dir), soon, soon))
	missAll(t, n)
	storetest.Must(t, n.Close())
	if info, err := n.Info(t.Context(), randomHashPart()); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info(absent) without a daemon = %+v, %v, want that the daemon was missed", info, err)
	}
}
