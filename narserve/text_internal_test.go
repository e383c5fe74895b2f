package narserve

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"narbor/store"
	"narbor/trust"
)

// textMapping makes a mapping that proves itself, of a file that says what.
func textMapping(t *testing.T, name, what string) trust.Mapping {
	t.Helper()
	m, err := new(trust.Keys).Check(textClaim(t, name, what))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func textClaim(t *testing.T, name, what string) store.Info {
	t.Helper()
	flat := sha256.Sum256([]byte(what))
	digest := sha256.Sum256(fmt.Appendf(nil, "text:sha256:%x:%s:%s", flat, store.Dir, name))
	var folded [20]byte
	for i, b := range digest {
		folded[i%20] ^= b
	}
	path, err := store.ParsePathName(string(store.HashPartFromBytes(folded)) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return store.Info{Path: path, NarHash: sha256.Sum256([]byte(name + what)), NarSize: int64(112 + len(what)),
		CA: "text:sha256:" + store.Hash(flat).Base32()}
}
