package trust_test

import (
	"crypto/sha256"
	"testing"

	"narbor/store"
	"narbor/trust"
)

// A fetched source that was built here is shared by the keys of all paths, and not as an own build.
func TestKindOfWhatWasBuiltHere(t *testing.T) {
	public, circle := newSigner("upstream-1"), newSigner("circle-1")
	p := trust.Policy{Keys: parseKeys(t, public.key()), Circle: parseKeys(t, circle.key()), Fetched: true}
	build := sampleInfo(t)
	build.Ultimate = true
	source := build
	source.References, source.Fetched, source.CA = nil, true, "fixed:r:sha256:"+store.Hash(sha256.Sum256(nil)).Base32()
	for want, info := range map[trust.Kind]store.Info{trust.KindOwn: circle.sign(build), trust.KindPublic: public.sign(source)} {
		m, err := p.Check(info)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.KindOf(info, m); got != want {
			t.Errorf("KindOf a path of kind %s = %s", want, got)
		}
	}
}
