package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
)

const (
	// haveFresh is how long the last answer of a partial peer about its blocks is relied on.
	haveFresh = 100 * time.Millisecond
	// minPatience and maxPatience bound the wait for blocks that other members should pass on soon, and patienceBlocks
	// is the number of blocks that a holder would deliver meanwhile.
	minPatience, maxPatience = 2 * tick, 600 * time.Millisecond
	patienceBlocks           = 8
)

// A crowd is the neighbours that are receiving the NAR of a fetch at the same time. The fetch's mutex guards it.
type crowd struct {
	seed    uint64 // this node's
	members map[peer.ID]*relay
	waiting []*neighbour          // of the members, those not asked yet
	owners  []*relay              // the member to which each block is assigned, nil is this node; made when asked for
	gone    map[peer.ID]time.Time // when it had nothing to pass on
	idle    time.Time             // since when holders have had nothing to do
	passed  int                   // how many blocks have been passed on since then
	last    time.Time             // when a block came last, from any peer
	shared  bool                  // other peers may get the blocks that are here
	closed  bool                  // nothing is taken from it any more, nor given to it
	news    chan struct{}         // closed, and made anew, when a block has come
}

// A relay is a member of a crowd.
type relay struct {
	seed  uint64
	have  bitmap    // the blocks that it has said to have
	asked time.Time // when it was asked for that
	root  bool      // it fetches the NAR from an upstream, and will have all of it
}

// crowdSeed is where the scores of a peer's blocks begin.
func crowdSeed(id peer.ID, nar store.Hash) uint64 {
	h := sha256.Sum256(append(nar[:], id...))
	return binary.BigEndian.Uint64(h[:])
}

// score mixes as splitmix64 does (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
func score(seed uint64, block int) uint64 {
	z := seed + uint64(block+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func newCrowd(self peer.ID, nar store.Hash, shared bool) crowd {
	return crowd{seed: crowdSeed(self, nar), members: map[peer.ID]*relay{}, gone: map[peer.ID]time.Time{}, shared: shared, last: time.Now(), news: make(chan struct{})}
}

// offer makes a neighbour a member. It returns false if it is one already, or may not be one. A root is one also if there
// are many, or it had nothing a moment ago; there are no more than maxHelpers.
func (c *crowd) offer(nb *neighbour, nar store.Hash, root bool) bool {
	if c.closed || c.members[nb.id] != nil || nb.tally.isDistrusted(time.Now()) {
		return false
	}
	if !root && (len(c.members) >= maxRelays || time.Since(c.gone[nb.id]) < holdersFresh) {
		return false
	}
	c.members[nb.id] = &relay{seed: crowdSeed(nb.id, nar)}
	c.waiting = append(c.waiting, nb)
	c.owners = nil
	return true
}

func (c *crowd) drop(id peer.ID) bool {
	member := c.members[id] != nil
	if member {
		delete(c.members, id)
		c.owners = nil
	}
	return member
}

// owner returns the member to which a block is assigned; nil is this node.
func (c *crowd) owner(i, blocks int) *relay {
	if c.owners == nil {
		c.owners = make([]*relay, blocks)
		for b := range c.owners {
			best := score(c.seed, b)
			for _, r := range c.members {
				if s := score(r.seed, b); s > best {
					best, c.owners[b] = s, r
				}
			}
		}
	}
	return c.owners[i]
}

// has says whether a member has a block.
func (c *crowd) has(i int) bool {
	for _, r := range c.members {
		if r.have.has(i) {
			return true
		}
	}
	return false
}

// meet makes neighbours members of the crowd.
func (f *fetch) meet(nbs ...*neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nb := range nbs {
		if !slices.Contains(f.all, nb) && !f.excluded[nb.id] && f.node.takesFrom(nb, f.pairOf(nb)) {
			f.crowd.offer(nb, f.m.NarHash(), false)
		}
	}
}

// nextRelay returns a member from which no blocks are taken yet, or nil.
func (f *fetch) nextRelay() *neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.crowd.waiting) > 0 {
		nb := f.crowd.waiting[0]
		f.crowd.waiting = f.crowd.waiting[1:]
		if f.crowd.members[nb.id] != nil {
			return nb
		}
	}
	return nil
}

// pickRelayed gives a member its next block, of those that it has or that are its own; sure says that it has it.
// It returns [askedHave] if it is to be asked what it has, and len(f.blocks) if there is nothing. The caller holds mu.
func (f *fetch) pickRelayed(r *relay, asked []int) (i int, sure bool) {
	if len(f.blocks) > 1 && time.Since(r.asked) > haveFresh && (r.have == nil || len(asked) == 0) {
		r.asked = time.Now()
		return askedHave, true
	}
	own := len(f.blocks)
	for i := f.next; i < len(f.blocks); i++ {
		if f.blocks[i].state != blockMissing {
			continue
		}
		if r.root || r.have.has(i) {
			return i, true
		}
		if own == len(f.blocks) && f.crowd.owner(i, len(f.blocks)) == r {
			own = i
		}
	}
	return own, false
}

// busy notes that holders have something to do.
func (c *crowd) busy() { c.idle, c.passed = time.Time{}, 0 }

// keepsUp reports whether a holder that takes each for a block is to leave the missing blocks to the other members.
// That is so at first, and then as long as they are at least half as fast: a member that passes on a block now and
// then, maybe a wrong one, must not delay a fetch.
func (c *crowd) keepsUp(each time.Duration) bool {
	if c.idle.IsZero() {
		c.idle = time.Now()
	}
	patience := min(max(patienceBlocks*each, minPatience), maxPatience)
	idle := time.Since(c.idle)
	return idle < patience || time.Since(c.last) < patience && 2*time.Duration(c.passed)*each > idle
}

// pickVouched returns the next block for a holder of the whole NAR while there is a crowd: one that is assigned to this
// node, or one that no member passes on soon enough. It returns len(f.blocks) if all have been asked for, and false if
// it is too early. The caller holds mu.
func (f *fetch) pickVouched(each time.Duration) (int, bool) {
	const not = -1
	foreign, here := not, not // the first missing that is another's, and that another has
	for i := f.next; i < len(f.blocks); i++ {
		switch {
		case f.blocks[i].state != blockMissing:
		case f.crowd.has(i):
			if here == not {
				here = i
			}
		case f.crowd.owner(i, len(f.blocks)) == nil:
			f.crowd.busy()
			return i, true
		case foreign == not:
			foreign = i
		}
	}
	if f.crowd.keepsUp(each) {
		return 0, false
	}
	if foreign != not {
		return foreign, true
	}
	if here != not {
		return here, true
	}
	return len(f.blocks), true
}

// said takes in which blocks a member has.
func (f *fetch) said(nb *neighbour, have bitmap) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.crowd.members[nb.id]; r != nil {
		r.have, r.asked = have, time.Now()
	}
}

// vouches takes in that a member has the whole NAR by now.
func (f *fetch) vouches(nb *neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crowd.drop(nb.id) {
		f.all = append(f.all, nb)
		f.asks(nb)
	}
}

// leave takes a member out of the crowd; false says that it was none.
func (f *fetch) leave(nb *neighbour) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crowd.gone[nb.id] = time.Now()
	return f.crowd.drop(nb.id)
}

// isRelay says whether a neighbour is a member of the crowd.
func (f *fetch) isRelay(nb *neighbour) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crowd.members[nb.id] != nil
}

// stalled says whether no block has come for so long that none is to be expected from the crowd.
func (f *fetch) stalled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.crowd.last) > relayStall
}

// relays reports whether other peers may get the blocks that are here.
func (f *fetch) relays() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crowd.shared && !f.crowd.closed
}

// inDemand says whether neighbours are receiving the NAR, too.
func (f *fetch) inDemand() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crowd.shared && (len(f.crowd.members) > 0 || f.urged.Load())
}

// have returns which blocks are here.
func (f *fetch) have() bitmap {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := newBitmap(len(f.blocks))
	for i := range f.blocks {
		if f.blocks[i].state == blockDone {
			b.set(i)
		}
	}
	return b
}

// await waits for a block to be here, for a while.
func (f *fetch) await(ctx context.Context, i int) {
	ctx, cancel := context.WithTimeout(ctx, relayWait)
	defer cancel()
	for {
		f.mu.Lock()
		over := f.crowd.closed || i >= len(f.blocks) || f.blocks[i].state == blockDone
		news := f.crowd.news
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

// tell wakes the goroutines that wait for a block. The caller holds mu.
func (f *fetch) tell() {
	close(f.crowd.news)
	f.crowd.news = make(chan struct{})
}

// readBlock reads a block that is here. The error is errLater if it is not.
func (f *fetch) readBlock(i int, buf []byte) (int, error) {
	f.mu.Lock()
	here := i < len(f.blocks) && f.blocks[i].state == blockDone
	f.mu.Unlock()
	if !here {
		return 0, errLater
	}
	n := store.BlockLen(f.m.NarSize(), i)
	return f.draft.ReadAt(buf[:n], int64(i)*store.BlockSize)
}
