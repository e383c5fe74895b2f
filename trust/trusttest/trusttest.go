// Package trusttest makes keys, claims and mappings for the tests of several packages. Only tests import it.
package trusttest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

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

// A Signer is an upstream, and Keys trust it alone.
type Signer struct {
	Secret signature.SecretKey
	Keys   *trust.Keys
}

// NewSigner makes an upstream with a new key, always of the same name.
func NewSigner(tb testing.TB) Signer { return NewSignerNamed(tb, "upstream-1") }

// NewSignerNamed makes an upstream with a key of this name.
func NewSignerNamed(tb testing.TB, name string) Signer {
	tb.Helper()
	secret, keys := NewKey(tb, name)
	return Signer{secret, keys}
}

// Sign makes a claim about a path with this archive, and the mapping that it is good for.
func (s Signer) Sign(tb testing.TB, name string, nar []byte) (store.Info, trust.Mapping) {
	tb.Helper()
	return s.SignPath(tb, PathNamed(tb, name), nar)
}

// SignPath is Sign for a path that is not made of a name.
func (s Signer) SignPath(tb testing.TB, path store.Path, nar []byte) (store.Info, trust.Mapping) {
	tb.Helper()
	return s.sign(tb, store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar))})
}

// SignSize is Sign for an archive of this size that does not exist.
func (s Signer) SignSize(tb testing.TB, name string, size int64) (store.Info, trust.Mapping) {
	tb.Helper()
	return s.sign(tb, store.Info{Path: PathNamed(tb, name), NarHash: sha256.Sum256([]byte(name)), NarSize: size})
}

func (s Signer) sign(tb testing.TB, info store.Info) (store.Info, trust.Mapping) {
	tb.Helper()
	info = Sign(tb, s.Secret, info)
	return info, Check(tb, s.Keys, info)
}

// FetchedFile is the unsigned claim of a fetched file by the file's hash, and its archive.
func FetchedFile(tb testing.TB, name string, contents []byte) (store.Info, []byte, trust.File) {
	tb.Helper()
	sum := sha256.Sum256(contents)
	f, err := trust.ParseFile("sha256", hex.EncodeToString(sum[:]))
	storetest.Must(tb, err)
	path, err := store.ParsePathName(string(f.PathCalled(name)) + "-" + name)
	storetest.Must(tb, err)
	nar := storetest.FileNAR(contents)
	return store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), CA: f.String(), Fetched: true}, nar, f
}

// SourceClaim is the unsigned claim of an archive by its hash, as `nix-store --add` makes it.
func SourceClaim(tb testing.TB, name string, nar []byte) store.Info {
	tb.Helper()
	hash := store.Hash(sha256.Sum256(nar))
	return store.Info{Path: pathByHash(tb, "source", hash, name), NarHash: hash, NarSize: int64(len(nar)), CA: "fixed:r:" + hash.String()}
}

// TextClaim is the claim about a file as `builtins.toFile` makes it, which needs no signature. Its NarHash is no
// archive's.
func TextClaim(tb testing.TB, name, contents string) store.Info {
	tb.Helper()
	flat := store.Hash(sha256.Sum256([]byte(contents)))
	return store.Info{Path: pathByHash(tb, "text", flat, name), NarHash: sha256.Sum256([]byte(name + contents)),
		NarSize: int64(112 + len(contents)), CA: "text:" + flat.String()}
}

// pathByHash is the path that Nix makes of a hash.
func pathByHash(tb testing.TB, kind string, hash store.Hash, name string) store.Path {
	tb.Helper()
	digest := sha256.Sum256(fmt.Appendf(nil, "%s:sha256:%x:%s:%s", kind, hash[:], store.Dir, name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(nixhash.CompressHash(digest[:], 20)) + "-" + name)
	storetest.Must(tb, err)
	return path
}

// TextMapping is the mapping of such a file.
func TextMapping(tb testing.TB, name, contents string) trust.Mapping {
	tb.Helper()
	return Check(tb, new(trust.Keys), TextClaim(tb, name, contents))
}
