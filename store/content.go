package store

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/nix-community/go-nix/pkg/nixhash"
)

// MakeHashPart computes the hash part of a store path as Nix does, from Nix's name for the kind of the content and the
// bytes of its hash.
func MakeHashPart(kind, inner, name string) HashPart {
	sum := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString([]byte(inner)) + ":" + Dir + ":" + name))
	return HashPartFromBytes([20]byte(nixhash.CompressHash(sum[:], 20)))
}
