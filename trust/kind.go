package trust

import "narbor/store"

// A Kind is a kind of path, by the reason why others may have it.
type Kind string

// The kinds of path. KindKept is for all that others may not have.
const (
	KindPublic  Kind = "public"  // signed by a public key
	KindOffered Kind = "offered" // signed, and a neighbour has offered the signature
	KindPrivate Kind = "private" // signed by private keys alone
	KindSource  Kind = "source"  // fetched by its hash, and not signed
	KindGit     Kind = "git"     // a tree of a git repository, and not signed
	KindOwn     Kind = "own"     // built here, and signed by a key of the circle
	KindKept    Kind = "kept"    // of any kind, and not shared
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{KindPublic, KindOffered, KindPrivate, KindSource, KindGit, KindOwn, KindKept}
}

// KindOf returns the kind of a path that others may have, of which the keys of [Policy.KeysFor] have made m.
func (p Policy) KindOf(info store.Info, m Mapping) Kind {
	switch {
	case m.signedBy == "" && info.Git:
		return KindGit
	case m.signedBy == "":
		return KindSource
	case info.Ultimate && !p.isSource(info): // a source that was built here needs no signature of the circle
		return KindOwn
	case info.Offered:
		return KindOffered
	case p.Public != nil && !p.Public.set.Load().named(m.signatures): // which these keys or others have verified
		return KindPrivate
	}
	return KindPublic
}
