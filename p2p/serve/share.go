package serve

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"narbor/p2p/netmon"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// A sharer has the archives that neighbours may get.
type sharer struct {
	*claims
	kept   *manifests   // computed before; nil if there is no file for them
	warned atomic.Int64 // when a failure was logged last, in nanoseconds
	counts kindCounts
	opened chan struct{} // there is something in open; read by Run

	mu   sync.Mutex // guards open
	open map[narKey]*openNAR
}

func newSharer(sources []store.Source, arriving Arriving, policy trust.Policy) *sharer {
	return &sharer{claims: newClaims(sources, arriving, policy), opened: make(chan struct{}, 1), open: map[narKey]*openNAR{},
		counts: newKindCounts()}
}

type narKey struct {
	hp  store.HashPart
	nar store.Hash
}

// An openNAR is an archive that neighbours are reading, or were until a moment ago. Its mutex is held while it is being
// opened, so that concurrent requests open it once.
type openNAR struct {
	mu sync.Mutex // guards the next three until opened
	claimed
	nar store.NAR
	err error

	refs int       // guarded by sharer.mu
	used time.Time // guarded by sharer.mu
	dead bool      // guarded by sharer.mu; out of the table, to be closed by its last reader
}

// ifStill returns nil if the keys that were the reason to open a NAR are still those of the sharing policy.
func (s *sharer) ifStill(o *openNAR) error {
	if !o.keys.Trusts(o.m) {
		return fmt.Errorf("%s: no key of the sharing policy has signed it any more: %w", o.m.Path(), store.ErrNotFound)
	}
	return nil
}

// acquire opens a NAR, or finds it open. The caller calls release once it has read what it wants.
func (s *sharer) acquire(ctx context.Context, key narKey) (*openNAR, error) {
	s.mu.Lock()
	o := s.open[key]
	if o == nil {
		o = &openNAR{}
		s.open[key] = o
		netmon.Hint(s.opened)
	}
	o.refs++
	full := len(s.open) > maxOpenNARs
	s.mu.Unlock()
	if full {
		s.CloseIdle(0)
	}

	o.mu.Lock()
	if o.nar == nil && o.err == nil {
		o.claimed, o.nar, o.err = s.openNAR(ctx, key)
	}
	err := o.err
	if err == nil {
		err = s.ifStill(o)
	}
	o.mu.Unlock()
	if err != nil {
		s.forget(key, o) // the next request tries again
		s.release(o)
		return nil, err
	}
	return o, nil
}

// Offer holds a NAR open that neighbours are receiving, too, as if one had just read it. Nix may take it out of the
// spool meanwhile, and needs a moment to have it in its store.
func (s *sharer) Offer(m trust.Mapping, sp *spool.NAR) {
	m, ok := s.May(m)
	if !ok || s.off.Load() {
		return
	}
	s.mu.Lock()
	full := len(s.open) >= maxOpenNARs
	s.mu.Unlock()
	if full {
		s.CloseIdle(0)
	}
	key, kind := narKey{m.Path().HashPart(), m.NarHash()}, s.policy.KindOf(store.Info{}, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key] == nil {
		s.open[key] = &openNAR{claimed: claimed{m, s.arriving, s.policy.Keys, kind}, nar: sp.Retain(), used: time.Now()}
		netmon.Hint(s.opened)
	}
}

func (s *sharer) openNAR(ctx context.Context, key narKey) (claimed, store.NAR, error) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	c, err := s.claim(ctx, key.hp)
	if err != nil {
		return claimed{}, nil, err
	}
	if c.m.NarHash() != key.nar {
		return claimed{}, nil, fmt.Errorf("%s with another NarHash: %w", c.m.Path(), store.ErrNotFound)
	}
	nar, err := c.src.NAR(ctx, c.m.Info())
	return c, nar, err
}

// sentOf counts bytes of a requested NAR as sent, and returns its path and NarSize, as long as it is open; if it is
// not, the zero path.
func (s *sharer) sentOf(r wire.Request, size int) (store.Path, int64) {
	if p := s.Partial(r); p != nil {
		m, _ := p.Mapping()
		s.counts.sent(s.policy.KindOf(store.Info{}, m), size)
		return m.Path(), m.NarSize()
	}
	s.mu.Lock()
	o := s.open[narKey{r.HashParts[0], r.NAR}]
	s.mu.Unlock()
	if o == nil {
		return store.Path{}, 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.nar == nil {
		return store.Path{}, 0
	}
	s.counts.sent(o.kind, size)
	return o.m.Path(), o.nar.Size()
}

func (s *sharer) release(o *openNAR) {
	s.mu.Lock()
	o.refs--
	o.used = time.Now()
	last := o.dead && o.refs == 0
	s.mu.Unlock()
	if last && o.nar != nil {
		o.nar.Close()
	}
}

// CloseIdle closes the archives that have not been read for that long. It returns whether any stays open.
func (s *sharer) CloseIdle(idleFor time.Duration) bool {
	var idle []*openNAR
	s.mu.Lock()
	for key, o := range s.open {
		if o.refs == 0 && time.Since(o.used) >= idleFor {
			delete(s.open, key)
			idle = append(idle, o)
		}
	}
	left := len(s.open) > 0
	s.mu.Unlock()
	for _, o := range idle {
		if o.nar != nil {
			o.nar.Close()
		}
	}
	return left
}

// Run closes the archives that have not been read for a while, until ctx ends.
func (s *sharer) Run(ctx context.Context) error {
	for {
		select {
		case <-s.opened:
		case <-ctx.Done():
			return nil
		}
		for left, wait := true, openNARIdle; left; wait = openNARIdle / 2 {
			select {
			case <-time.After(wait):
				left = s.CloseIdle(openNARIdle)
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// KeepManifests keeps manifests in a directory until Close. It is called before anything is served.
func (s *sharer) KeepManifests(dir string) (err error) {
	s.kept, err = openManifests(dir)
	return err
}

// Close closes the archives that are still open, and the kept manifests. It is called after the last request has ended.
func (s *sharer) Close() {
	s.CloseIdle(0)
	s.kept.close()
}

// Share turns sharing on or off. Once it is off, no further block is read for any neighbour, and archives held open for
// neighbours are closed as soon as no block is being read.
func (s *sharer) Share(on bool) {
	s.off.Store(!on)
	if on {
		return
	}
	s.mu.Lock()
	for key, o := range s.open {
		if o.refs > 0 {
			o.dead = true
			delete(s.open, key)
		}
	}
	s.mu.Unlock()
	s.CloseIdle(0)
}

// have returns which blocks of a NAR are here.
func (s *sharer) have(ctx context.Context, r wire.Request) (wire.Bitmap, error) {
	if p := s.Partial(r); p != nil {
		return p.Have(), nil
	}
	o, err := s.acquire(ctx, narKey{r.HashParts[0], r.NAR})
	if err != nil {
		return nil, err
	}
	defer s.release(o)
	all := wire.NewBitmap(store.NumBlocks(o.nar.Size()))
	for i := range store.NumBlocks(o.nar.Size()) {
		all.Set(i)
	}
	return all, nil
}

// readBlock reads a block of a NAR into buf, which has room for [store.BlockSize] bytes, and returns its length, and
// whether the NAR is still being received and so unverified; then the error may be [wire.ErrLater].
func (s *sharer) readBlock(ctx context.Context, r wire.Request, buf []byte) (n int, unverified bool, err error) {
	if p := s.Partial(r); p != nil {
		n, err := p.ReadBlock(r.Block, buf)
		if !errors.Is(err, os.ErrClosed) { // otherwise it has ended this moment
			return n, true, err
		}
	}
	n, err = s.readVerified(ctx, r, buf)
	return n, false, err
}

func (s *sharer) readVerified(ctx context.Context, r wire.Request, buf []byte) (int, error) {
	key := narKey{r.HashParts[0], r.NAR}
	o, err := s.acquire(ctx, key)
	if err != nil {
		return 0, err
	}
	defer s.release(o)
	if r.Block >= store.NumBlocks(o.nar.Size()) {
		return 0, fmt.Errorf("block %d of %s: %w", r.Block, r.HashParts[0], store.ErrNotFound)
	}
	n := store.BlockLen(o.nar.Size(), r.Block)
	if _, err := o.nar.ReadAt(buf[:n], int64(r.Block)*store.BlockSize); err != nil {
		s.forget(key, o)
		return 0, fmt.Errorf("block %d of %s: %w", r.Block, r.HashParts[0], err)
	}
	return n, nil
}

// forget makes the next request open the NAR anew, which finds out whether the path is still valid.
func (s *sharer) forget(key narKey, o *openNAR) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.dead = true
	if s.open[key] == o {
		delete(s.open, key)
	}
}

// manifest yields the digests of a NAR's blocks in order to each, some at a time, after their number to start. They are
// kept only if the whole has the NAR's hash: damage on the disk may be repaired later.
func (s *sharer) manifest(ctx context.Context, r wire.Request, start func(n int) error, each func(digests []byte) error) error {
	o, err := s.acquire(ctx, narKey{r.HashParts[0], r.NAR})
	if err != nil {
		return err
	}
	defer s.release(o)
	buf := wire.NewBlock()
	defer buf.Free()
	size := o.nar.Size()
	n := store.NumBlocks(size)
	if err := start(n); err != nil {
		return err
	}
	if kept := s.kept.get(r.NAR, n); kept != nil {
		return each(kept)
	}
	whole := sha256.New()
	var digests []byte
	for i := range n {
		if s.off.Load() {
			return fmt.Errorf("manifest of %s: shared no more: %w", r.HashParts[0], store.ErrNotFound)
		}
		if err := s.ifStill(o); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		block := buf.Room()[:store.BlockLen(size, i)]
		if _, err := o.nar.ReadAt(block, int64(i)*store.BlockSize); err != nil {
			return fmt.Errorf("manifest of %s: %w", r.HashParts[0], err)
		}
		whole.Write(block)
		digest := sha256.Sum256(block)
		digests = append(digests, digest[:]...)
		if err := each(digest[:]); err != nil {
			return err
		}
	}
	if store.Hash(whole.Sum(nil)) != r.NAR {
		s.suspect(ctx, r.HashParts[0], store.ErrCorrupt)
		return nil
	}
	_ = s.kept.put(r.NAR, digests) // digests that are not kept are computed again
	return nil
}
