// Package trust decides what narbor believes. A claim ([store.Info]) becomes a [Mapping] only if an upstream that
// this machine trusts has signed it, or if its store path can be recomputed from its content; there is no other
// way to make a Mapping, so code that is handed one cannot be handed an unchecked claim. The machine's own Nix believes
// every claim that this package believes: where the two differ, this package is the stricter. It does no I/O and never
// logs.
//
// A signature covers the fingerprint, which is text:
//
//	1;<store path>;sha256:<base 32 of NarHash>;<NarSize>;<references, absolute, sorted, separated by commas>
//
// A content address (CA) needs no signature, because the store path is a hash over it. Five kinds count, written as Nix
// writes them, and none if the path refers to itself:
//
//	fixed:r:sha256:H  H is the NarHash
//	fixed:r:A:H       H is the NAR's hash by A, which is md5, sha1 or sha512; no references
//	fixed:A:H         H is the hash by A, which may be sha256, too, of the one file that the NAR holds; no references
//	fixed:git:A:H     H is the object ID that git gives to the content by A, which is sha1 or sha256; no references; only if
//	                  [Keys.BelieveGit] says that Nix knows of these: it takes a narinfo with one for an error otherwise
//	text:sha256:H     H is the hash of the one file that the NAR holds; with references
//
// Claims of the last four kinds do not fix the NAR: NarHash may be that of another. Nix looks for the hash after
// unpacking, and is content with a symbolic link to, or an executable file of, the right bytes; [Mapping.CheckNAR] is
// not.
package trust

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"narbor/store"
)

// maxVerify bounds the ed25519 verifications, some 60 µs each, that one claim can cost. It is as many as a narinfo may
// have signatures, so it matters only for claims that were never narinfo text.
const maxVerify = 64

// ErrUntrusted says that a claim is neither signed by a trusted key nor proven by its content.
var ErrUntrusted = errors.New("not signed by a trusted key")

// ErrForged says that a claim has signatures in the name of a trusted key, and that none of them verifies. It is no
// proof of a lie: an honest neighbour verifies what it passes on with its own keys, and a key of the same name may have
// other bits there, after a rotation or a typing error on either side.
var ErrForged = errors.New("its signature in the name of a trusted key does not verify with that key")

// Check turns a claim into a mapping if it deserves belief. The error wraps [ErrUntrusted] if it does not,
// and [ErrForged], too, if it has signatures in the name of a trusted key that do not verify.
func (k *Keys) Check(info store.Info) (Mapping, error) {
	if info.Path.IsZero() || info.NarSize < 1 || info.NarSize > store.MaxNarSize {
		return Mapping{}, fmt.Errorf("%s with NarSize %d is no claim: %w", cmp.Or(info.Path.String(), "no path"), info.NarSize,
			ErrUntrusted)
	}
	info.References = store.SortPaths(slices.Clone(info.References))
	m := Mapping{path: info.Path, narHash: info.NarHash, narSize: info.NarSize, refs: info.References, checkedBy: k.set.Load()}
	m.signatures, m.signedBy = m.checkedBy.verifyAll(Fingerprint(info), info.Signatures)
	content, proven := recompute(info)
	proven = proven && (!content.git || k.git.Load())
	switch {
	case m.signedBy == "" && !proven && m.checkedBy.named(info.Signatures):
		return Mapping{}, fmt.Errorf("%s: %w: %w", info.Path, ErrUntrusted, ErrForged)
	case m.signedBy == "" && !proven:
		return Mapping{}, fmt.Errorf("%s: %w", info.Path, ErrUntrusted)
	case proven && (m.signedBy == "" || content.settled):
		m.content = content
	}
	return m, nil
}

// Trusts says whether Check would still believe m, which another set of keys, or these before they were replaced,
// may have checked. It costs nothing as long as the keys are the ones that checked it.
func (k *Keys) Trusts(m Mapping) bool {
	if m.path.IsZero() {
		return false
	}
	if m.content.git && !k.git.Load() {
		return false
	}
	set := k.set.Load()
	if m.signedBy == "" || m.checkedBy == set {
		return true
	}
	_, name := set.verifyAll(Fingerprint(m.Info()), m.signatures)
	return name != ""
}

// verifyAll returns those signatures of a fingerprint that verify, one for each key, and the name of the key that
// made the first. A bad signature does not hide a good one of the same key after it.
func (s *keySet) verifyAll(fingerprint string, signatures []string) (good []string, first string) {
	done, budget := map[string]bool{}, maxVerify
	for _, sig := range signatures {
		name, _, _ := strings.Cut(sig, ":")
		if !s.has(name) || done[name] {
			continue
		}
		if budget--; budget < 0 {
			break
		}
		if s.verify(fingerprint, sig) {
			done[name] = true
			good, first = append(good, sig), cmp.Or(first, name)
		}
	}
	return good, first
}

// named says whether one of the signatures claims to be by a key of the set.
func (s *keySet) named(signatures []string) bool {
	return slices.ContainsFunc(signatures, func(sig string) bool {
		name, _, _ := strings.Cut(sig, ":")
		return s.has(name)
	})
}

// NamedIn returns the names of trusted keys that the claim's signatures have, sorted. It verifies no signature.
func (k *Keys) NamedIn(info store.Info) (names []string) {
	set := k.set.Load()
	for _, sig := range info.Signatures {
		if name, _, _ := strings.Cut(sig, ":"); set.has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Fingerprint returns the text of a claim that an upstream signs, as Nix defines it: "1", the store path, NarHash,
// NarSize and references, separated by semicolons. The references must be sorted.
func Fingerprint(info store.Info) string {
	refs := make([]string, len(info.References))
	for i, r := range info.References {
		refs[i] = r.String()
	}
	return strings.Join([]string{"1", info.Path.String(), info.NarHash.String(), strconv.FormatInt(info.NarSize, 10),
		strings.Join(refs, ",")}, ";")
}
