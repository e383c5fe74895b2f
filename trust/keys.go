package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"narbor/store"
	"narbor/store/lru"
)

// Keys is a set of upstream public keys. All methods may be called concurrently; the set may be replaced at any
// time, as when nix.conf changes. The zero value trusts no key.
type Keys struct {
	set atomic.Pointer[keySet]
	git atomic.Bool
}

// BelieveGit says whether paths with git's content addresses count as proven: only a Nix with the experimental feature
// git-hashing takes them. They do not at first.
func (k *Keys) BelieveGit(on bool) { k.git.Store(on) }

// maxVerified bounds the signatures that a set of keys remembers: those of a large update.
const maxVerified = 4096

// The keys of a keySet never change. A nil one is empty.
type keySet struct {
	byName   map[string]signature.PublicKey
	verified *lru.Cache[store.Hash, struct{}] // digests of signatures with what they sign; they end with the set
}

// ParseKeys reads keys in the form of Nix's trusted-public-keys: "<name>:<base64 of 32 bytes>". It fails on the
// first that is not one. Of two keys with one name only the first counts, as in Nix.
func ParseKeys(keys []string) (*Keys, error) {
	k := new(Keys)
	return k, k.Replace(keys)
}

// Replace makes keys, in the form that [ParseKeys] takes, the whole set. On an error the set stays as it was.
func (k *Keys) Replace(keys []string) error {
	set := &keySet{map[string]signature.PublicKey{}, lru.New[store.Hash, struct{}](maxVerified)}
	for _, s := range keys {
		pk, err := parseKey(s)
		if err != nil {
			return err
		}
		if !set.has(pk.Name) {
			set.byName[pk.Name] = pk
		}
	}
	k.set.Store(set)
	return nil
}

// Names returns the names of the keys, sorted.
func (k *Keys) Names() []string {
	var names []string
	if set := k.set.Load(); set != nil {
		for name := range set.byName {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *keySet) has(name string) bool {
	if s == nil {
		return false
	}
	_, ok := s.byName[name]
	return ok
}

// verify says whether sig is a signature of the fingerprint by the key it names. Base64 has several spellings of
// the same bytes; only the one that Nix writes is accepted, since it is what we pass on. A signature that was verified
// is remembered: a claim is checked when it arrives, and again when Nix asks for its NAR.
func (s *keySet) verify(fingerprint, sig string) bool {
	digest := store.Hash(sha256.Sum256([]byte(strconv.Itoa(len(sig)) + ":" + sig + fingerprint)))
	if s.verified.Contains(digest) {
		return true
	}
	parsed, err := signature.ParseSignature(sig)
	ok := err == nil && parsed.String() == sig && s.byName[parsed.Name].Verify(fingerprint, parsed)
	if ok {
		s.verified.Add(digest, struct{}{})
	}
	return ok
}

// parseKey accepts one spelling of each key, and no weak key, for which every peer could make signatures.
func parseKey(s string) (signature.PublicKey, error) {
	pk, err := signature.ParsePublicKey(s)
	switch {
	case err != nil || len(pk.Data) != ed25519.PublicKeySize || pk.String() != s:
		return signature.PublicKey{}, fmt.Errorf("%.80q is not a public key: want <name>:<base64 of %d bytes>", ShownKey(s),
			ed25519.PublicKeySize)
	case pk.Name == "" || strings.ContainsFunc(pk.Name, isSpaceOrControl):
		return signature.PublicKey{}, fmt.Errorf("%.80q is not a public key: its name is empty or has a space in it", s)
	case isWeak(pk.Data):
		return signature.PublicKey{}, fmt.Errorf("public key %.80q is weak: anybody could sign for it", s)
	}
	return pk, nil
}

// ShownKey returns a text that is not a public key in the form that an error may show. A text longer than a public key
// may be a secret key, so only its name is left.
func ShownKey(s string) string {
	name, rest, _ := strings.Cut(s, ":")
	if len(rest) <= base64.StdEncoding.EncodedLen(ed25519.PublicKeySize) {
		return s
	}
	return name + ":…"
}

// isSpaceOrControl reports whether r in a name could end the line of narinfo text, or the word, that has the name.
func isSpaceOrControl(r rune) bool { return r <= ' ' || r == 0x7f }

// weakKeys are the points of ed25519 with an order that divides 8, by their y coordinate, little-endian: 0, 1, −1, and
// the two of order 8. A signature (R, S) is good if S·B = R + k·A; if A is one of these, k·A is zero for one message in
// eight at worst, and R = 0, S = 0 will do. crypto/ed25519 lets that pass; libsodium, in Nix, does not.
var weakKeys = [...]string{
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
}

// isWeak says whether key is one of weakKeys, or not the canonical encoding of any point: y is 2²⁵⁵−19 or more.
func isWeak(key ed25519.PublicKey) bool {
	y := bytes.Clone(key)
	y[31] &= 0x7f // the sign of x
	if slices.Contains(weakKeys[:], string(y)) {
		return true
	}
	return y[0] >= 0xed && y[31] == 0x7f && bytes.Count(y[1:31], []byte{0xff}) == 30
}
