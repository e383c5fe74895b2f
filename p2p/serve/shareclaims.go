package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// claims are the paths that neighbours may get: those of the sources that the policy allows.
type claims struct {
	sources  []store.Source
	policy   trust.Policy                            // a path that others may not have is not here
	arriving Arriving                                // of sources; nil if nothing is shared
	checked  *lru.Cache[store.HashPart, checkedInfo] // what has a good signature, so that it is verified once
	off      atomic.Bool                             // nothing is here, whatever is asked for
}

func newClaims(sources []store.Source, arriving Arriving, policy trust.Policy) *claims {
	if arriving != nil {
		sources = append(slices.Clone(sources), arriving)
	}
	return &claims{sources: sources, policy: policy, arriving: arriving, checked: lru.New[store.HashPart, checkedInfo](maxChecked)}
}

// checkedInfo is a claim of a source, and the mapping found when its signatures were verified.
type checkedInfo struct {
	info store.Info
	m    trust.Mapping
}

type claimed struct {
	m    trust.Mapping // checked with keys
	src  store.Source  // has the path
	keys *trust.Keys   // of the sharing policy for that path
	kind trust.Kind
}

// Sharing reports whether sharing is on.
func (s *claims) Sharing() bool { return !s.off.Load() }

// May reports whether the path of a mapping may be shared, if it is here, and returns the mapping as the keys of the
// sharing policy have checked it.
func (s *claims) May(m trust.Mapping) (trust.Mapping, bool) {
	checked, err := s.policy.Check(m.Info())
	return checked, s.arriving != nil && err == nil
}

// Has says whether a path may be shared, and has that NAR.
func (s *claims) Has(ctx context.Context, hp store.HashPart, nar store.Hash) bool {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	c, err := s.claim(ctx, hp)
	return err == nil && c.m.NarHash() == nar
}

// Arriving is the source of the NARs that come from neighbours: those in the spool, and those that are still being
// received.
type Arriving interface {
	store.Source
	// Partial returns the NAR of a hash part that is still being received, or nil.
	Partial(store.HashPart) Partial
	// Has reports whether a NAR is in the spool.
	Has(nar store.Hash) bool
}

// A Partial is a NAR that is still being received. Its methods may be called concurrently.
type Partial interface {
	// Mapping returns the mapping as the keys of the sharing policy have checked it, or false if no other peer may get
	// the blocks that are here.
	Mapping() (trust.Mapping, bool)
	// Have returns which blocks are here.
	Have() wire.Bitmap
	// Await waits for a moment for a block to be here.
	Await(ctx context.Context, block int)
	// ReadBlock reads a block that is here into buf, and returns its length. The error is [wire.ErrLater] if it is not
	// here yet, and [os.ErrClosed] if the NAR is no longer being received.
	ReadBlock(block int, buf []byte) (int, error)
}

// Partial returns the NAR asked for if it is still being received and others may have its blocks, or nil.
func (s *claims) Partial(r wire.Request) Partial {
	if s.arriving == nil || s.off.Load() || r.Kind == wire.AskClaims {
		return nil
	}
	p := s.arriving.Partial(r.HashParts[0])
	if p == nil {
		return nil
	}
	m, ok := p.Mapping()
	if !ok || m.NarHash() != r.NAR || !s.policy.Keys.Trusts(m) {
		return nil
	}
	return p
}

// claim returns what may be told about a hash part. The error wraps [store.ErrNotFound] if that is nothing. What one
// source calls built here, no other source shares: it may have a copy. So the first source that fails ends the search.
func (s *claims) claim(ctx context.Context, hp store.HashPart) (claimed, error) {
	here := false
	for _, src := range s.sources {
		if s.off.Load() {
			break
		}
		info, err := src.Info(ctx, hp)
		if errors.Is(err, store.ErrNotFound) && !info.Ultimate { // the claim of a damaged path comes with the error
			continue
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return claimed{}, err
		}
		keys, stays := s.policy.KeysFor(info)
		if stays != nil {
			return claimed{}, fmt.Errorf("%w: %w", store.ErrNotFound, stays)
		}
		m, unsigned := s.check(hp, info, keys)
		switch {
		case unsigned == nil && s.policy.MayLeave(info, m) && m.Path().HashPart() == hp && err == nil:
			return claimed{m, src, keys, s.policy.KindOf(info, m)}, nil
		case info.Ultimate:
			return claimed{}, fmt.Errorf("%s: %w: %w", info.Path, store.ErrNotFound, trust.ErrBuiltHere)
		}
		here = here || err == nil && src != s.arriving
	}
	if here {
		return claimed{}, fmt.Errorf("%s: %w: %w", hp, store.ErrNotFound, errUnshared)
	}
	return claimed{}, fmt.Errorf("%s: %w", hp, store.ErrNotFound)
}

// check verifies the signatures of a claim, unless it has done so before, and neither claim nor keys have changed.
func (s *claims) check(hp store.HashPart, info store.Info, keys *trust.Keys) (trust.Mapping, error) {
	if c, ok := s.checked.Get(hp); ok && sameSigned(c.info, info) && keys.Trusts(c.m) {
		return c.m, nil
	}
	m, err := keys.Check(info)
	if err == nil && m.SignedBy() != "" && len(info.References) <= peers.MaxCheckedRefs {
		s.checked.Add(hp, checkedInfo{info, m})
	}
	return m, err
}

func sameSigned(a, b store.Info) bool {
	return a.Path == b.Path && a.NarHash == b.NarHash && a.NarSize == b.NarSize && a.CA == b.CA &&
		slices.Equal(a.References, b.References) && slices.Equal(a.Signatures, b.Signatures)
}

// A sharedClaim is the answer about a hash part: the claim without the fields that prove nothing, or "".
type sharedClaim struct {
	text      string
	refs      []store.Path
	receiving bool // the NAR, still
	kind      trust.Kind
}

func (s *claims) sharedClaim(ctx context.Context, hp store.HashPart) (sharedClaim, error) {
	c, err := s.claim(ctx, hp)
	if err != nil {
		return sharedClaim{}, err
	}
	text, info, err := ClaimText(c.m)
	if err != nil {
		return sharedClaim{}, err
	}
	receiving := c.src == s.arriving && !s.arriving.Has(c.m.NarHash())
	return sharedClaim{text, info.References, receiving, c.kind}, nil
}

// ClaimText returns the claim about a mapping, without the unsigned fields; a claim without a signature keeps its
// content address, which is its only proof. The error wraps [store.ErrNotFound] if the wire format does not allow a
// claim of that length.
func ClaimText(m trust.Mapping) (string, store.Info, error) {
	info := m.Info()
	info.Deriver = store.Path{}
	if m.SignedBy() != "" {
		info.CA = ""
	}
	text := info.String()
	if len(text) > store.MaxInfoLen {
		return "", store.Info{}, fmt.Errorf("%s: a narinfo of %d bytes, and neighbours take %d: %w", m.Path(), len(text), store.MaxInfoLen,
			store.ErrNotFound)
	}
	return text, info, nil
}

// suspect has a path checked that could not be read as it should be.
func (s *claims) suspect(ctx context.Context, hp store.HashPart, cause error) {
	if !errors.Is(cause, store.ErrCorrupt) && !errors.Is(cause, fs.ErrNotExist) {
		return
	}
	if c, err := s.claim(ctx, hp); err == nil { // it is valid all the same
		store.Suspect(c.src, c.m.Info())
	}
}
