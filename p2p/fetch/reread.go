package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
)

// attribute takes the next step to find the peers that sent wrong blocks, when the whole NAR is here and wrong. It returns
// the NAR if that repaired it; otherwise nil, and then suspect blocks are missing again. See the package comment for the proof.
func (f *Session) attribute(ctx context.Context, cause error) (*spool.NAR, error) {
	defer f.only()
	f.leaveSwarm()
	blocks, present := f.senders()
	next := remedyFor(blocks, present)
	if next.reference != "" {
		return f.compareWith(ctx, f.holder(next.reference), blocks)
	}
	if next.guilty != "" {
		f.blameSender(next.guilty, cause)
	}
	return nil, f.reread(next.reread, blocks)
}

// compareWith compares the blocks with the manifest of one holder, and fetches those that differ again from that holder
// alone. If the NAR is still wrong then, the holder vouched for all of it, and is blamed.
func (f *Session) compareWith(ctx context.Context, reference *peers.Neighbour, blocks []sender) (*spool.NAR, error) {
	manifest, err := reference.AskManifest(ctx, f.Wanted)
	if err != nil {
		f.failed(ctx, reference, err)
		if err := f.reread(sentBy(blocks, reference.ID), blocks); err != nil {
			return nil, err
		}
		return nil, ctx.Err()
	}
	other, err := differing(manifest, func(i int) (store.Hash, error) { return f.digest(f.draft, i) })
	if err == nil {
		err = f.reread(other, blocks)
	}
	if err != nil {
		return nil, err
	}
	f.blame.compare(manifest)
	defer f.blame.compare(nil)
	f.only(reference)
	if err := f.get(ctx); err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		failures := 1 // the holder could not deliver the blocks of its manifest; get has logged why
		if errors.Is(err, ErrSlow) {
			failures = lied
		}
		f.exclude(reference.ID, failures)
		return nil, ctx.Err()
	}
	sp, err := f.draft.Commit(f.Wanted.CheckNAR)
	if errors.Is(err, store.ErrCorrupt) {
		f.wrong(reference.ID, fmt.Errorf("vouched for all of it: %w", err))
		blocks, _ := f.senders()
		return nil, f.reread(sentBy(blocks, reference.ID), blocks)
	}
	return sp, err
}

// leaveSwarm ends the exchange of blocks with the swarm, once the NAR is here and wrong.
func (f *Session) leaveSwarm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.swarming.closed = true
	f.picker.swarm.dissolve()
	f.notify()
}

// senders returns the senders of the blocks, which are all here, and the holders that can still be asked.
func (f *Session) senders() (blocks []sender, present []peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.senders(), f.sources.present()
}

// Holder returns the holder with an ID, or nil.
func (f *Session) holder(id peer.ID) *peers.Neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sources.withID(id)
}

// reread makes blocks missing again, and remembers what they were. It is called while no run is on.
func (f *Session) reread(list []int, blocks []sender) error {
	hashes := make([]store.Hash, len(list))
	for k, i := range list {
		var err error
		if hashes[k], err = f.digest(f.draft, i); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, i := range list {
		f.blame.suspect(i, blocks[i], hashes[k])
		f.picker.again(i)
	}
	return nil
}

// blameSenders blames the senders of wrong blocks, now that the right NAR is here.
func (f *Session) blameSenders(nar io.ReaderAt) {
	found, _ := f.blame.senders(func(i int) (store.Hash, error) { return f.digest(nar, i) }) // what cannot be read blames no peer
	for _, s := range found {
		switch {
		case f.hasLied(s.id):
		case s.relayed:
			f.Conduct.Distrust(s.id)
		default:
			f.blameSender(s.id, errors.New("sent a block that is not of this NAR"))
		}
	}
}

// hasLied reports whether the peer was found to have lied in this fetch.
func (f *Session) hasLied(id peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sources.hasLied(id)
}

// digest hashes a block of the NAR.
func (f *Session) digest(nar io.ReaderAt, i int) (store.Hash, error) {
	buf := wire.BlockBuffers.Get().(*[]byte)
	defer wire.BlockBuffers.Put(buf)
	b := (*buf)[:store.BlockLen(f.Wanted.NarSize(), i)]
	_, err := nar.ReadAt(b, int64(i)*store.BlockSize)
	return sha256.Sum256(b), err
}
