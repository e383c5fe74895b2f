package fetch

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
	"narbor/trust"
)

// testHash is the hash of a NAR that does not exist.
func testHash() store.Hash { return sha256.Sum256([]byte("no NAR")) }

// testMapping returns a mapping of a path with that NAR.
func testMapping(t testing.TB, name string, nar []byte) trust.Mapping {
	t.Helper()
	secret, public, err := signature.GenerateKeypair("upstream-1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.ParseKeys([]string{public.String()})
	if err != nil {
		t.Fatal(err)
	}
	part := sha256.Sum256([]byte(name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	info := store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar))}
	sig, err := secret.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;", info.Path, info.NarHash, info.NarSize))
	if err != nil {
		t.Fatal(err)
	}
	info.Signatures = []string{sig.String()}
	m, err := keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
