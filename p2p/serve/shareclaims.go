package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

const (
	// claimsAtOnce is the number of claims that are made before they are sent, on as many processors as there are: a
	// signature takes some 50 µs to verify, and the asker verifies the first while the next are made.
	claimsAtOnce = 32
)

// checkedInfo is a claim of a source, and the mapping found when its signatures were verified.
type checkedInfo struct {
	info store.Info
	m    trust.Mapping
}

func newSharer(sources []store.Source, arriving Arriving, keys *trust.Keys) *sharer {
	checked := peers.NewCache[store.HashPart, checkedInfo](maxChecked)
	s := &sharer{sources: sources, arriving: arriving, keys: keys, opened: make(chan struct{}, 1), open: map[narKey]*openNAR{},
		checked: checked}
	if arriving != nil {
		s.sources = append(slices.Clone(sources), arriving)
	}
	return s
}

// claim returns what may be told about a hash part. The error wraps [store.ErrNotFound] if that is nothing. What one
// source calls built here, no other source shares: it may have a copy. So the first source that fails ends the search.
func (s *sharer) claim(ctx context.Context, hp store.HashPart) (trust.Mapping, store.Source, error) {
	for _, src := range s.sources {
		if s.off.Load() {
			break
		}
		info, err := src.Info(ctx, hp)
		if errors.Is(err, store.ErrNotFound) && !info.Ultimate { // the claim of a damaged path comes with the error
			continue
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return trust.Mapping{}, nil, err
		}
		if err := trust.MayLeave(info); err != nil {
			return trust.Mapping{}, nil, fmt.Errorf("%w: %w", store.ErrNotFound, err)
		}
		m, err := s.check(hp, info)
		if err == nil && m.SignedBy() != "" && m.Path().HashPart() == hp {
			return m, src, nil
		}
	}
	return trust.Mapping{}, nil, fmt.Errorf("%s: %w", hp, store.ErrNotFound)
}

// check verifies the signatures of a claim, unless it has done so before, and neither claim nor keys have changed.
func (s *sharer) check(hp store.HashPart, info store.Info) (trust.Mapping, error) {
	if c, ok := s.checked.Get(hp); ok && sameSigned(c.info, info) && s.keys.Trusts(c.m) {
		return c.m, nil
	}
	m, err := s.keys.Check(info)
	if err == nil && m.SignedBy() != "" && len(info.References) <= peers.MaxCheckedRefs {
		s.checked.Add(hp, checkedInfo{info, m})
	}
	return m, err
}

func sameSigned(a, b store.Info) bool {
	return a.Path == b.Path && a.NarHash == b.NarHash && a.NarSize == b.NarSize && a.CA == b.CA &&
		slices.Equal(a.References, b.References) && slices.Equal(a.Signatures, b.Signatures)
}

// A sharedClaim is the answer about a hash part: the signed claim without the unsigned fields, or "".
type sharedClaim struct {
	text      string
	refs      []store.Path
	receiving bool // the NAR, still
}

func (s *sharer) sharedClaim(ctx context.Context, hp store.HashPart) (sharedClaim, error) {
	m, src, err := s.claim(ctx, hp)
	if err != nil {
		return sharedClaim{}, err
	}
	text, info, err := ClaimText(m)
	if err != nil {
		return sharedClaim{}, err
	}
	receiving := src == s.arriving && !s.arriving.Has(m.NarHash())
	return sharedClaim{text, info.References, receiving}, nil
}

// ClaimText returns the claim about a mapping, without the unsigned fields. The error wraps [store.ErrNotFound] if the
// wire format does not allow a claim of that length.
func ClaimText(m trust.Mapping) (string, store.Info, error) {
	info := m.Info()
	info.CA, info.Deriver = "", store.Path{}
	text := info.String()
	if len(text) > store.MaxInfoLen {
		return "", store.Info{}, fmt.Errorf("%s: a narinfo of %d bytes, and neighbours take %d: %w", m.Path(), len(text), store.MaxInfoLen,
			store.ErrNotFound)
	}
	return text, info, nil
}

// sharedClaims makes several claims at once.
func (srv *Server) sharedClaims(parts []store.HashPart, claim func(store.HashPart) (sharedClaim, error)) []sharedClaim {
	out := make([]sharedClaim, len(parts))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(parts); i = int(next.Add(1)) - 1 {
			c, err := claim(parts[i])
			srv.noteHealth(parts[i], err)
			out[i] = c
		}
	}
	var helpers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)/4) - 1 {
		helpers.Go(work)
	}
	work()
	helpers.Wait()
	return out
}

// answers is where the answers on a stream go, and what has been told there.
type answers struct {
	*bufio.Writer
	told *toldParts
}

// toldParts is what was told on a stream, so that it is not told again unasked.
type toldParts struct {
	since time.Time
	parts map[store.HashPart]bool
}

// add notes that a hash part is told now, and says whether that was news.
func (t *toldParts) add(hp store.HashPart) bool {
	if len(t.parts) >= maxToldParts || time.Since(t.since) > toldFor {
		t.since, t.parts = time.Now(), map[store.HashPart]bool{}
	}
	news := !t.parts[hp]
	t.parts[hp] = true
	return news
}

func (srv *Server) answerClaims(ctx context.Context, c Client, w answers, r wire.Request) error {
	var buf []byte
	var refs []store.Path
	ask := func(hp store.HashPart) (sharedClaim, error) { return srv.claimTo(ctx, c, hp) }
	for part := range slices.Chunk(r.HashParts, claimsAtOnce) {
		buf = buf[:0]
		made := srv.sharedClaims(part, ask)
		if err := ctx.Err(); err != nil { // they were not looked up, and so are not answered
			return err
		}
		for i, claim := range made {
			buf = wire.AppendClaim(buf, claim.text, claim.receiving)
			if claim.text == "" {
				continue
			}
			c.tally.ClaimsSent.Add(1)
			w.told.add(part[i])
			if len(refs) < wire.MaxFurther {
				refs = append(refs, claim.refs...)
			}
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	if err := srv.tellFurther(ctx, c, w, refs); err != nil {
		return err
	}
	return w.WriteByte(0)
}

// tellFurther tells of what the asker is likely to ask next, breadth first as Nix does: the references of what it has
// been told, and theirs. That is no more than it could ask about, for it knows the references of a claim.
func (srv *Server) tellFurther(ctx context.Context, c Client, w answers, refs []store.Path) error {
	add := func(hp store.HashPart) (sharedClaim, error) { return srv.sharedClaim(ctx, hp) }
	for left, room := wire.MaxFurther, wire.MaxFurtherLen; ; {
		var part []store.HashPart
		for ; len(refs) > 0 && len(part) < min(left, claimsAtOnce); refs = refs[1:] {
			if hp := refs[0].HashPart(); w.told.add(hp) {
				part = append(part, hp)
			}
		}
		if len(part) == 0 {
			return nil
		}
		left -= len(part)
		if err := w.Flush(); err != nil { // the asker waits for these
			return err
		}
		for i, claim := range srv.sharedClaims(part, add) {
			if claim.text == "" || claim.receiving || len(claim.text) > room {
				continue
			}
			room -= len(claim.text)
			c.tally.ClaimsSent.Add(1)
			if err := wire.WriteFurther(w.Writer, part[i], claim.text); err != nil {
				return err
			}
			if len(refs) < wire.MaxFurther {
				refs = append(refs, claim.refs...)
			}
		}
	}
}
