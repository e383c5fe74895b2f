package integration_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"narbor/integration/lan"
	"narbor/store"
)

// generation adds a library and a program that refers to it and to itself. Two generations differ in nothing but the
// store paths: in a file, in a symlink and at the edge of a block.
func (c handmade) generation(n int) (lib, app store.Info) {
	c.Helper()
	path := func(name string) store.Path {
		seed := sha256.Sum256(fmt.Appendf(nil, "%s of generation %d", name, n))
		p, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(seed[:20]))) + "-" + name)
		c.must(err)
		return p
	}
	noise := func(seed byte, size int) string {
		b := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
		return string(b)
	}
	libPath, appPath := path("libfoo-1.0"), path("app-2.0")
	lib = c.addPath(libPath, narOf(fileTokens(noise(1, 6<<20)+libPath.String()+"/lib")...), libPath)
	contents := noise(2, store.BlockSize-150) + appPath.String() + "/bin:" + libPath.String() + noise(3, 8<<20)
	node := []string{"(", "type", "directory"}
	node = append(node, "entry", "(", "name", "binary", "node")
	node = append(append(node, fileTokens(contents)...), ")")
	node = append(node, "entry", "(", "name", "lib", "node", "(", "type", "symlink", "target", libPath.String()+"/lib", ")", ")")
	return lib, c.addPath(appPath, narOf(append(node, ")")...), libPath, appPath)
}

// After a mass rebuild most paths differ from the version before in store paths alone. They do not come over the
// network again.
func TestEveryNixRebuildsPathsThatOnlyHaveNewNames(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	c := newHandmade(w)
	_, before := c.generation(1)
	lib, after := c.generation(2)
	c.holder("alice")
	for _, nix := range nixes {
		h := w.host(lan.HostConfig{Name: "bob-" + nix.Version, System: nix.System}, "substituters = "+lan.Substituter,
			"extra-trusted-public-keys = "+c.public)
		w.start(h, "--share-key", "handmade-1")
		w.neighbours(h, 1)
		w.realise(h, before.Path.String())
		wire, err := h.Wire(w.ctx)
		w.must(err)
		w.realise(h, after.Path.String())
		now, err := h.Wire(w.ctx)
		w.must(err)
		w.must(h.Verify(w.ctx))
		size := lib.NarSize + after.NarSize
		if in := int64(now.In - wire.In); in > size/20 {
			t.Errorf("Nix %s: %d bytes came over the wire for the second generation of %d", nix.Version, in, size)
		}
		_, text, err := h.Get(w.ctx, lan.Substituter+"/metrics")
		w.must(err)
		want := fmt.Sprintf(`narbor_nar_bytes_total{direction="in",source="rebuilt"} %g`, float64(size))
		if !strings.Contains(text, want+"\n") {
			t.Errorf("Nix %s: the metrics do not say %s", nix.Version, want)
		}
	}
}
