package demo

import (
	"crypto/sha256"
	"io"
	"path/filepath"
	"testing"

	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/nar"
	"narbor/trust"
)

// openAll returns the NARs of the corpus that are in a cache directory, by position, as narbor reads and checks them.
func openAll(t *testing.T, c *corpus, dir string) (sound []bool) {
	t.Helper()
	cache, err := bincache.Open(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.ParseKeys([]string{c.key})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range c.paths {
		info, err := cache.Info(t.Context(), want.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Check(info); err != nil {
			t.Errorf("%s: the signature does not hold: %v", info.Path, err)
		}
		archive, err := cache.NAR(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		if err := nar.Check(archive, archive.Size()); err != nil {
			t.Errorf("%s: %v", info.Path, err)
		}
		sound = append(sound, hashOf(t, archive) == info.NarHash)
		archive.Close()
	}
	return sound
}

func hashOf(t *testing.T, archive store.NAR) store.Hash {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(archive, 0, archive.Size())); err != nil {
		t.Fatal(err)
	}
	return store.Hash(h.Sum(nil))
}

func TestCorpusIsSignedAndItsDamagedCopyIsNot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, err := newCorpus(dir, 9, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.paths) != 9 || c.bytes < 1<<20 || c.bytes > 5<<18 {
		t.Errorf("%d paths with %d bytes, want 9 with 1 MiB and little more", len(c.paths), c.bytes)
	}
	reached := map[store.HashPart]bool{}
	for todo := []store.Info{c.paths[8]}; len(todo) > 0; todo = todo[1:] {
		reached[todo[0].Path.HashPart()] = true
		for _, r := range todo[0].References {
			for _, p := range c.paths {
				if p.Path == r {
					todo = append(todo, p)
				}
			}
		}
	}
	if len(reached) != 9 {
		t.Errorf("the last path refers to %d paths and itself, want all of 9", len(reached))
	}
	for i, ok := range openAll(t, c, dir) {
		if !ok {
			t.Errorf("archive %d is not what the key has signed", i)
		}
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if n, err := c.copyDamaged(bad); err != nil || n != 4 {
		t.Errorf("copyDamaged = %d, %v, want 4", n, err)
	}
	for i, ok := range openAll(t, c, bad) {
		if ok != (i%2 == 0) {
			t.Errorf("damaged copy: archive %d is sound: %v", i, ok)
		}
	}
}
