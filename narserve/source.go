package narserve

import (
	"context"
	"fmt"
	"time"

	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// copyBufferSize is how much of a NAR is read at a time on its way into the spool.
const copyBufferSize = 1 << 20

// Source is where archives come from. All methods may be called concurrently, and end soon after ctx does.
// p2p.Node is one; [Local] makes one of this machine's own store.
type Source interface {
	// Lookup returns a mapping for the store path with that hash part; ErrNotFound if the source has none.
	Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error)
	// Fetch returns the verified archive. The caller closes it. The error wraps ErrNotFound if the source
	// cannot produce it, and ErrMalformed if no source can.
	Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error)
}

// A Patient source decides by itself how long a question about a path is worth waiting for its answer, up to its
// patience. Other sources have [narinfoTimeout] for a narinfo. Its Lookup is relied on to return as soon as its context
// ends, whatever it waits for: the last source is asked in the goroutine of Nix's request if it is Patient.
type Patient interface {
	Patience() time.Duration
}

// local is this machine's own store as a [Source].
type local struct {
	src     store.Source
	keys    *trust.Keys
	spool   *spool.Spool
	sources bool // fetched sources need no signature
}

// Local returns a source for what src may give to every user of this machine and to guests: paths with a signature by
// one of publicKeys that were not built here. Their archives are copied into spool and verified there: the files on
// disk may have changed since they were signed.
func Local(src store.Source, publicKeys *trust.Keys, spool *spool.Spool) Source {
	return local{src, publicKeys, spool, false}
}

// LocalSources is Local for a source of what Nix fetches by its hash: no signature is needed. Guests do not get it.
func LocalSources(src store.Source, publicKeys *trust.Keys, spool *spool.Spool) Source {
	return local{src, publicKeys, spool, true}
}

// Lookup implements [Source]. An error other than ErrNotFound means that the store could not be asked.
func (l local) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	info, err := l.src.Info(ctx, hp)
	return l.check(info, err)
}

// check returns the mapping of a claim that may be given away. err is the error of the source.
func (l local) check(info store.Info, err error) (trust.Mapping, error) {
	if err != nil {
		return trust.Mapping{}, err
	}
	m, err := trust.Policy{Keys: l.keys, Fetched: l.sources}.Check(info)
	if err != nil {
		return trust.Mapping{}, fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return m, nil
}

// Fetch implements [Source].
func (l local) Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	sp, err := l.fetch(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
	}
	return sp, nil
}

func (l local) fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	info, err := store.InfoLately(ctx, l.src, m.Path().HashPart()) // m may come from a neighbour
	if err != nil {
		return nil, err
	}
	own, err := trust.Policy{Keys: l.keys, Fetched: true}.Check(info) // a source is handed out only by a mapping that is known
	if err != nil {
		return nil, err
	}
	if own.Path() != m.Path() || own.NarHash() != m.NarHash() || own.NarSize() != m.NarSize() {
		return nil, fmt.Errorf("the own store has it with NarHash %s", own.NarHash())
	}
	nar, err := l.src.NAR(ctx, own.Info())
	if err != nil {
		store.Suspect(l.src, own.Info())
		return nil, err
	}
	defer nar.Close() // only read from
	draft, err := l.spool.Create(m.NarHash(), m.NarSize())
	if err != nil {
		return nil, err
	}
	defer draft.Discard()
	err = copyInto(ctx, draft, nar, m.NarSize())
	var sp *spool.NAR
	if err == nil {
		sp, err = draft.Commit(m.CheckNAR)
	}
	if err != nil && ctx.Err() == nil {
		store.Suspect(l.src, own.Info())
	}
	return sp, err
}

func copyInto(ctx context.Context, draft *spool.Draft, nar store.NAR, size int64) error {
	buf := make([]byte, min(size, copyBufferSize))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(int64(len(buf)), size-off)]
		if n, err := nar.ReadAt(p, off); n < len(p) {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		if _, err := draft.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}
