package store_test

import (
	"strings"
	"testing"

	"narbor/store"
)

// FuzzValues is about the small types that are written in Nix's base 32, and the paths that are made of them.
func FuzzValues(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if hp, err := store.ParseHashPart(s); err == nil && (string(hp) != s || store.HashPartFromBytes(hp.Bytes()) != hp) {
			t.Errorf("ParseHashPart(%q) = %q, whose bytes make %q", s, hp, store.HashPartFromBytes(hp.Bytes()))
		}
		if len(s) == 20 {
			made := store.HashPartFromBytes([20]byte([]byte(s)))
			if hp, err := store.ParseHashPart(string(made)); err != nil || hp.Bytes() != [20]byte([]byte(s)) {
				t.Errorf("HashPartFromBytes(%x) = %q, which is parsed as %q, %v", s, made, hp, err)
			}
		}
		if h, err := store.ParseHash(s); err == nil {
			again, err := store.ParseHash(h.String())
			if err != nil || again != h {
				t.Errorf("ParseHash(%q) = %v, but again %v, %v", s, h, again, err)
			}
		}
		if p, err := store.ParsePath(s); err == nil && p.String() != s {
			t.Errorf("ParsePath(%q) = %q", s, p)
		}
		if p, err := store.ParsePathName(s); err == nil && (p.Base() != s || string(p.HashPart())+"-"+p.Name() != s ||
			strings.ContainsAny(s, "/\x00\n ")) {
			t.Errorf("ParsePathName(%q) = %q and %q", s, p.HashPart(), p.Name())
		}
	})
}
