package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// checkedInfo is a claim of a source, and the mapping found when its signatures were verified.
type checkedInfo struct {
	info store.Info
	m    trust.Mapping
}

// claimed is a claim that may be told.
type claimed struct {
	m    trust.Mapping // checked with keys
	src  store.Source  // has the path
	keys *trust.Keys   // of the sharing policy for that path
	kind trust.Kind
}

func newSharer(sources []store.Source, arriving Arriving, policy trust.Policy) *sharer {
	checked := lru.New[store.HashPart, checkedInfo](maxChecked)
	s := &sharer{sources: sources, arriving: arriving, policy: policy, opened: make(chan struct{}, 1), open: map[narKey]*openNAR{},
		checked: checked, counts: newKindCounts()}
	if arriving != nil {
		s.sources = append(slices.Clone(sources), arriving)
	}
	return s
}

// claim returns what may be told about a hash part. The error wraps [store.ErrNotFound] if that is nothing. What one
// source calls built here, no other source shares: it may have a copy. So the first source that fails ends the search.
func (s *sharer) claim(ctx context.Context, hp store.HashPart) (claimed, error) {
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
func (s *sharer) check(hp store.HashPart, info store.Info, keys *trust.Keys) (trust.Mapping, error) {
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

func (s *sharer) sharedClaim(ctx context.Context, hp store.HashPart) (sharedClaim, error) {
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
func (s *sharer) suspect(ctx context.Context, hp store.HashPart, cause error) {
	if !errors.Is(cause, store.ErrCorrupt) && !errors.Is(cause, fs.ErrNotExist) {
		return
	}
	if c, err := s.claim(ctx, hp); err == nil { // it is valid all the same
		store.Suspect(c.src, c.m.Info())
	}
}
