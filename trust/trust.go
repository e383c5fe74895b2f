// Package trust decides what narbor believes. A claim ([store.Info]) becomes a [Mapping] only if an upstream that
// this machine trusts has signed it, or if its store path can be recomputed from its content; there is no other
// way to make a Mapping, so code that is handed one cannot be handed an unchecked claim. The package does no I/O
// and never logs.
package trust

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"narbor/store"
)

// ErrUntrusted says that a claim is neither signed by a trusted key nor proven by its content.
var ErrUntrusted = errors.New("not signed by a trusted key")

// Keys is a set of upstream public keys. All methods may be called concurrently; the set may be replaced at any
// time, as when nix.conf changes. The zero value trusts nobody.
type Keys struct{ byName atomic.Pointer[map[string][]signature.PublicKey] }

// ParseKeys reads keys in the form of Nix's trusted-public-keys: "<name>:<base64 of 32 bytes>". It fails on the
// first that is not one.
func ParseKeys(keys []string) (*Keys, error) {
	k := new(Keys)
	return k, k.Replace(keys)
}

// Replace makes keys, in the form that [ParseKeys] takes, the whole set. On an error the set stays as it was.
func (k *Keys) Replace(keys []string) error {
	byName := map[string][]signature.PublicKey{}
	for _, s := range keys {
		pk, err := signature.ParsePublicKey(s)
		if err != nil || pk.Name == "" || len(pk.Data) != ed25519.PublicKeySize {
			return fmt.Errorf("%.80q is not a public key: want <name>:<base64 of %d bytes>", s, ed25519.PublicKeySize)
		}
		byName[pk.Name] = append(byName[pk.Name], pk)
	}
	k.byName.Store(&byName)
	return nil
}

// Names returns the names of the keys, sorted.
func (k *Keys) Names() []string {
	var names []string
	if m := k.byName.Load(); m != nil {
		for name := range *m {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Check turns a claim into a mapping if it deserves belief. The error wraps [ErrUntrusted] if it does not.
func (k *Keys) Check(info store.Info) (Mapping, error) {
	fp := fingerprint(info)
	m := Mapping{path: info.Path, narHash: info.NarHash, narSize: info.NarSize, refs: slices.Clone(info.References)}
	for _, s := range info.Signatures {
		if name := k.verify(fp, s); name != "" {
			m.signatures = append(m.signatures, s)
			m.signedBy = cmp.Or(m.signedBy, name)
		}
	}
	if m.signedBy == "" {
		return Mapping{}, fmt.Errorf("%s: %w", info.Path, ErrUntrusted)
	}
	return m, nil
}

// verify returns the name of the trusted key that made sig, or "".
func (k *Keys) verify(fingerprint, sig string) string {
	m := k.byName.Load()
	parsed, err := signature.ParseSignature(sig)
	if err != nil || m == nil || parsed.String() != sig {
		return ""
	}
	for _, pk := range (*m)[parsed.Name] {
		if pk.Verify(fingerprint, parsed) {
			return pk.Name
		}
	}
	return ""
}

// fingerprint is what an upstream signs: ValidPathInfo::fingerprint in Nix's store-api.cc.
func fingerprint(info store.Info) string {
	refs := make([]string, len(info.References))
	for i, r := range info.References {
		refs[i] = r.String()
	}
	return strings.Join([]string{"1", info.Path.String(), info.NarHash.String(), strconv.FormatInt(info.NarSize, 10),
		strings.Join(refs, ",")}, ";")
}
