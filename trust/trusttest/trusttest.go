// Package trusttest makes keys, claims and mappings for the tests of several packages. Only tests import it.
package trusttest

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
	"narbor/store/storetest"
	"narbor/trust"
)

// NewKey makes a key of this name, as an upstream has, and the keys that trust it alone.
func NewKey(tb testing.TB, name string) (signature.SecretKey, *trust.Keys) {
	tb.Helper()
	secret, public, err := signature.GenerateKeypair(name, rand.Reader)
	storetest.Must(tb, err)
	keys, err := trust.ParseKeys([]string{public.String()})
	storetest.Must(tb, err)
	return secret, keys
}

// PathNamed is the path with this name, and a hash part that follows from it.
func PathNamed(tb testing.TB, name string) store.Path {
	tb.Helper()
	part := sha256.Sum256([]byte(name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + name)
	storetest.Must(tb, err)
	return path
}

// Sign returns a claim with one signature, by this key.
func Sign(tb testing.TB, secret signature.SecretKey, info store.Info) store.Info {
	tb.Helper()
	var refs []string
	for _, r := range info.References {
		refs = append(refs, r.String())
	}
	slices.Sort(refs)
	text := fmt.Sprintf("1;%s;%s;%d;%s", info.Path, info.NarHash, info.NarSize, strings.Join(refs, ","))
	sig, err := secret.Sign(rand.Reader, text)
	storetest.Must(tb, err)
	info.Signatures = []string{sig.String()}
	return info
}

// Check returns the mapping that a claim is good for.
func Check(tb testing.TB, keys *trust.Keys, info store.Info) trust.Mapping {
	tb.Helper()
	m, err := keys.Check(info)
	storetest.Must(tb, err)
	return m
}

// TextClaim is the claim about a file as `builtins.toFile` makes it, which needs no signature. Its NarHash is no
// archive's.
func TextClaim(tb testing.TB, name, contents string) store.Info {
	tb.Helper()
	flat := sha256.Sum256([]byte(contents))
	digest := sha256.Sum256(fmt.Appendf(nil, "text:sha256:%x:%s:%s", flat, store.Dir, name))
	var folded [20]byte
	for i, b := range digest {
		folded[i%20] ^= b
	}
	path, err := store.ParsePathName(string(store.HashPartFromBytes(folded)) + "-" + name)
	storetest.Must(tb, err)
	return store.Info{Path: path, NarHash: sha256.Sum256([]byte(name + contents)), NarSize: int64(112 + len(contents)),
		CA: "text:sha256:" + store.Hash(flat).Base32()}
}

// TextMapping is the mapping of such a file.
func TextMapping(tb testing.TB, name, contents string) trust.Mapping {
	tb.Helper()
	return Check(tb, new(trust.Keys), TextClaim(tb, name, contents))
}
