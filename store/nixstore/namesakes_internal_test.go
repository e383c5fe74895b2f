package nixstore

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/store"
)

func TestNamesakesAreFoundByName(t *testing.T) {
	dir := t.TempDir()
	part := func(c string) store.HashPart { return store.HashPart(strings.Repeat(c, 32)) }
	touch := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"hello-1.0", "hello-1.0.drv", "hello-1.1", "hello-1.0.lock "} {
		touch(string(part("a")) + "-" + name)
	}
	touch(string(part("b")) + "-hello-1.0")
	touch(".links")
	touch("short")
	x := newNameIndex(dir)
	find := func(name string) []store.HashPart {
		parts := x.find(name)
		slices.Sort(parts)
		return parts
	}
	for name, want := range map[string][]store.HashPart{
		"hello-1.0": {part("a"), part("b")}, "hello-1.1": {part("a")}, "hello-1.0.drv": nil, "hello": nil, "": nil, "links": nil,
	} {
		if got := find(name); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}

	// A new file is found after a while that depends on the size of the store.
	touch(string(part("c")) + "-hello-1.1")
	x.rest = time.Hour
	if got := find("hello-1.1"); len(got) != 1 {
		t.Errorf("the directory was read again at once: %v", got)
	}
	x.rest = 0
	if got := find("hello-1.1"); len(got) != 2 {
		t.Errorf("a new file is not found: %v", got)
	}
	if x.rest <= 0 {
		t.Error("the directory is read again at once after it was read")
	}

	// The old list stays in use when the directory cannot be read.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	x.rest = 0
	if got := find("hello-1.1"); len(got) != 2 {
		t.Errorf("without the directory: %v", got)
	}
}
