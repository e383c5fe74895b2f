package integration_test

import (
	"crypto/rand"
	"testing"

	"narbor/integration/lan"
	"narbor/store"
)

// The narbor that fetches is killed in the middle of a NAR that takes 17 s to come, and started again. Nix gets the
// NAR, and what had come before is not sent again.
func TestKilledNarborGoesOnWhereItWas(t *testing.T) {
	w := newWorld(t)
	c := newHandmade(w)
	contents := make([]byte, 40<<20)
	rand.Read(contents)
	large := c.add("large", narOf(fileTokens(string(contents))...))
	alice := c.holder("alice")
	w.must(alice.Shape(20))
	bob := w.host(lan.HostConfig{Name: "bob"}, "substituters = "+lan.Substituter, "extra-trusted-public-keys = "+c.public)
	p := w.start(bob)
	w.neighbours(bob, 1)
	before, err := bob.Wire(w.ctx)
	w.must(err)
	r := w.begin(bob, large.Path.String())
	half := int64(store.NumBlocks(large.NarSize) / 2)
	w.until(bob, "had half of the NAR", func(s lan.Status) bool { return received(s) >= half })
	w.must(p.Kill())
	w.start(bob)
	r.end()
	w.must(bob.Verify(w.ctx))
	after, err := bob.Wire(w.ctx)
	w.must(err)
	s := w.status(bob)
	share := float64(after.In-before.In) / float64(large.NarSize)
	t.Logf("%.3f bytes came over the wire for each of the NAR; %d blocks of %d after the kill", share, received(s),
		store.NumBlocks(large.NarSize))
	if share > 1.05 {
		t.Errorf("%d bytes came over the wire for a NAR of %d", after.In-before.In, large.NarSize)
	}
}
