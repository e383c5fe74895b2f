package trust

import (
	"fmt"
	"slices"

	"narbor/store"
)

// Mapping is a checked claim: this store path is this NarHash and NarSize, with these references. Only
// [Keys.Check] makes one. It never changes and may be copied. The zero Mapping is about no path, and not trusted.
type Mapping struct {
	path       store.Path
	narHash    store.Hash
	narSize    int64
	refs       []store.Path
	signatures []string
	signedBy   string
	content    content
	checkedBy  *keySet
}

// Path is the store path that the mapping is about.
func (m Mapping) Path() store.Path { return m.path }

// NarHash is the hash of the path's whole NAR.
func (m Mapping) NarHash() store.Hash { return m.narHash }

// NarSize is the length of the NAR in bytes.
func (m Mapping) NarSize() int64 { return m.narSize }

// SignedBy names the key of the verified signature, or is "" if the path is content-addressed and needs none.
func (m Mapping) SignedBy() string { return m.signedBy }

// Info returns what has been verified and no more. Signatures that do not verify and the deriver are left out.
//
// So is a content address that was not recomputed: Nix refuses the path if it is wrong, after the download, and 2.8
// dies of some. A signed path keeps its content address only if that is fixed:r:sha256:, where the signed NarHash
// settles it. The other kinds would have to be checked against the NAR, and then a peer that adds one to a signed claim
// could make a NAR fail that the upstream has signed. Without it the signature still holds, and Nix asks for no more.
func (m Mapping) Info() store.Info {
	return store.Info{Path: m.path, NarHash: m.narHash, NarSize: m.narSize, References: slices.Clone(m.refs),
		Signatures: slices.Clone(m.signatures), CA: m.content.ca}
}

// CheckNAR checks the NAR of a content-addressed path beyond its NarHash: a NAR with the mapping's hash may still be a
// forgery if that hash is not signed. It must be called once the hash is verified, before the first byte goes to Nix.
// The error wraps [store.ErrCorrupt].
func (m Mapping) CheckNAR(nar store.NAR) error {
	if nar.Size() != m.narSize {
		return fmt.Errorf("%s: NAR of %d bytes, want %d: %w", m.path, nar.Size(), m.narSize, store.ErrCorrupt)
	}
	if m.content.ca == "" || m.content.settled {
		return nil
	}
	if err := m.content.check(nar); err != nil {
		return fmt.Errorf("%s is not %s: %w: %w", m.path, m.content.ca, store.ErrCorrupt, err)
	}
	return nil
}
