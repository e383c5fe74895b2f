package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/wire"
	"narbor/store"
)

// convict finds a peer that sent wrong blocks, when the whole NAR is here and wrong. It returns the NAR if that
// repaired it; otherwise nil, and then the doubtful blocks are missing again and the peer is excluded. See the package
// comment for the proof.
func (f *fetch) convict(ctx context.Context, cause error) (*store.Spooled, error) {
	defer func() { f.manifest = nil; f.only() }()
	by := f.contributors()
	if len(by) == 1 {
		for id := range by {
			f.blame(id, cause)
		}
		_, err := f.suspect(func(int, block) bool { return true })
		return nil, err
	}
	witness := f.witness(by)
	if witness == nil { // all contributors have left: none of them can be blamed
		_, err := f.suspect(func(int, block) bool { return true })
		return nil, err
	}
	manifest, err := f.askManifest(ctx, witness)
	if err != nil {
		f.failed(ctx, witness, err)
		if _, err := f.suspect(func(_ int, b block) bool { return b.from == witness.id }); err != nil {
			return nil, err
		}
		return nil, ctx.Err()
	}
	if err := f.compare(manifest); err != nil {
		return nil, err
	}
	f.manifest = manifest
	f.only(witness)
	if err := f.run(ctx); err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		failures := 1 // the holder could not deliver the blocks of its manifest; run has logged why
		if errors.Is(err, errSlow) {
			failures = lied
		}
		f.exclude(witness.id, failures)
		return nil, ctx.Err()
	}
	sp, err := f.draft.Commit(f.m.CheckNAR)
	if errors.Is(err, store.ErrCorrupt) {
		f.wrong(witness.id, fmt.Errorf("vouched for all of it: %w", err))
		_, err := f.suspect(func(_ int, b block) bool { return b.from == witness.id })
		return nil, err
	}
	return sp, err
}

// witness returns the holder, still here, that sent most of the NAR, or nil.
func (f *fetch) witness(by map[peer.ID]int) *neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	var best *neighbour
	for _, nb := range f.all {
		if !f.excluded[nb.id] && by[nb.id] > 0 && (best == nil || by[nb.id] > by[best.id]) {
			best = nb
		}
	}
	return best
}

// compare makes the blocks that are not in the manifest missing again. It is called while no run is on.
func (f *fetch) compare(manifest store.Manifest) error {
	buf := wire.BlockBuffers.Get().(*[]byte)
	defer wire.BlockBuffers.Put(buf)
	wrong := make([]bool, len(manifest))
	for i, block := range manifest {
		b := (*buf)[:block.Size]
		if _, err := f.draft.ReadAt(b, int64(i)*store.BlockSize); err != nil {
			return err
		}
		wrong[i] = sha256.Sum256(b) != block.Hash
	}
	_, err := f.suspect(func(i int, _ block) bool { return wrong[i] })
	return err
}

// AskManifest gets a holder's word on what the blocks are.
func (f *fetch) askManifest(ctx context.Context, nb *neighbour) (store.Manifest, error) {
	ex, err := nb.open(ctx, readStall)
	if err != nil {
		return nil, err
	}
	defer ex.Reset()
	stop := context.AfterFunc(ctx, func() { ex.Reset() })
	defer stop()
	r := wire.Request{Kind: wire.AskManifest, HashParts: []store.HashPart{f.m.Path().HashPart()}, NAR: f.m.NarHash()}
	if err := ex.send(r); err != nil {
		return nil, err
	}
	ex.until = time.Now().Add(min(manifestTimeout+time.Duration(f.m.NarSize()/manifestPace)*time.Second, manifestLimit))
	return wire.ReadManifest(ex.br, f.m.NarSize())
}
