package fetch

import (
	"context"
	"time"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

const (
	// haveFresh is how long the last answer of a partial peer about its blocks is relied on.
	haveFresh = 100 * time.Millisecond
	// minPatience and maxPatience bound the wait for blocks that other members should pass on soon, and patienceBlocks
	// is the number of blocks that a holder would deliver meanwhile.
	minPatience, maxPatience = 2 * tick, 600 * time.Millisecond
	patienceBlocks           = 8
)

// swarming is how a fetch exchanges blocks with the swarm. The fetch's mutex guards it.
type swarming struct {
	waiting []*peers.Neighbour // members from which no blocks are taken yet
	checked trust.Mapping      // as the sharing policy has checked it; zero if that refuses it
	shared  bool               // other peers may get the blocks that are here
	closed  bool               // nothing is taken from the swarm any more, nor given to it
	news    chan struct{}      // closed, and made anew, when a block has come
}

// meet makes neighbours members of the swarm.
func (f *Session) Meet(nbs ...*peers.Neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nb := range nbs {
		if f.sources.isNew(nb) && f.Conduct.Takes(nb, f.Wanted) {
			f.offer(nb, false)
		}
	}
}

// offer makes a neighbour a member of the swarm, unless that is closed or the neighbour has passed on wrong blocks. The
// caller holds mu.
func (f *Session) offer(nb *peers.Neighbour, proxy bool) bool {
	now := time.Now()
	if f.swarming.closed || nb.Tally.IsDistrusted(now) || !f.picker.swarm.offer(nb.ID, proxy, now) {
		return false
	}
	f.swarming.waiting = append(f.swarming.waiting, nb)
	return true
}

// nextPartial returns a member from which no blocks are taken yet, or nil.
func (f *Session) nextPartial() *peers.Neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.swarming.waiting) > 0 {
		nb := f.swarming.waiting[0]
		f.swarming.waiting = f.swarming.waiting[1:]
		if f.picker.swarm.members[nb.ID] != nil {
			return nb
		}
	}
	return nil
}

// setBitfield records which blocks a member has.
func (f *Session) setBitfield(nb *peers.Neighbour, have wire.Bitmap) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.picker.swarm.setBitfield(nb.ID, have, time.Now())
}

// becameHolder records that a member has the whole NAR by now.
func (f *Session) becameHolder(nb *peers.Neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.picker.swarm.drop(nb.ID) {
		f.sources.addAsked(nb, time.Now())
	}
}

// leave takes a member out of the swarm, and returns false if it was none.
func (f *Session) leave(nb *peers.Neighbour) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.picker.swarm.gone[nb.ID] = time.Now()
	return f.picker.swarm.drop(nb.ID)
}

// isPartial reports whether a neighbour is a member of the swarm.
func (f *Session) IsPartial(nb *peers.Neighbour) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.swarm.members[nb.ID] != nil
}

// stalled reports whether no block has come for so long that none is to be expected from the swarm.
func (f *Session) stalled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.picker.swarm.last) > PartialStall
}

// Mapping implements [partial].
func (f *Session) Mapping() (trust.Mapping, bool) { return f.swarming.checked, f.PassesOn() }

// passesOn reports whether other peers may get the blocks that are here.
func (f *Session) PassesOn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.swarming.shared && !f.swarming.closed
}

// inDemand reports whether neighbours are receiving the NAR, too.
func (f *Session) InDemand() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.swarming.shared && (len(f.picker.swarm.members) > 0 || f.uplink.urged.Load())
}

// Have returns which blocks are here.
func (f *Session) Have() wire.Bitmap {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.bitfield()
}

// Await waits for a block to be here, for a while.
func (f *Session) Await(ctx context.Context, i int) {
	ctx, cancel := context.WithTimeout(ctx, PartialWait)
	defer cancel()
	for {
		f.mu.Lock()
		over := f.swarming.closed || i >= len(f.picker.blocks) || f.picker.isHere(i)
		news := f.swarming.news
		f.mu.Unlock()
		if over {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

// notify wakes the goroutines that wait for a block. The caller holds mu.
func (f *Session) notify() {
	close(f.swarming.news)
	f.swarming.news = make(chan struct{})
}

// ReadBlock reads a block that is here. The error is [wire.ErrLater] if it is not.
func (f *Session) ReadBlock(i int, buf []byte) (int, error) {
	f.mu.Lock()
	here := f.picker.isHere(i)
	f.mu.Unlock()
	if !here {
		return 0, wire.ErrLater
	}
	n := store.BlockLen(f.Wanted.NarSize(), i)
	return f.draft.ReadAt(buf[:n], int64(i)*store.BlockSize)
}
