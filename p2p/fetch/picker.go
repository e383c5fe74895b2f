package fetch

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/wire"
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

// askBitfield stands among requested blocks for the request for a bitfield.
const askBitfield = -1

// A picker decides which block of a NAR is requested from which peer. It has no lock, no goroutine and no clock: its
// owner guards it and passes the time.
//
// It weighs, and nothing else:
//
//   - which blocks are missing, requested and here;
//   - whether the peer is a holder, which has the whole NAR, or a partial peer; and then its bitfield, and the bitfield's age;
//   - the assignee of a block: a member of the swarm, or this node, by rendezvous hashing of peer ID, NAR and block;
//   - the time that the peer takes for a block and the blocks that it owes already, hence when it would deliver one more;
//   - when each requested block is expected, and how overdue it is;
//   - from how many peers a block has been requested;
//   - how many blocks the other holders deliver together in a second, and when the last block came;
//   - how many blocks partial peers have passed on since holders were last busy.
type picker struct {
	blocks []block
	left   int // blocks that are not here
	next   int // no block below it is missing
	swarm  narSwarm
}

type blockState byte

const (
	blockMissing blockState = iota
	blockAsked
	blockWriting
	blockDone
)

type block struct {
	state    blockState
	relayed  bool      // done: its sender had not verified it
	requests int       // number of peers that were asked for it and have not answered
	from     peer.ID   // asked: the peer that was asked last; done: its sender
	due      time.Time // asked: when it was expected
}

// A narSwarm is the peers that are receiving the NAR at the same time.
type narSwarm struct {
	nar       store.Hash
	weight    uint64 // this node's
	members   map[peer.ID]*partialPeer
	assignees []*partialPeer        // the member to which each block is assigned, nil is this node; made when it is needed
	gone      map[peer.ID]time.Time // when it had nothing to pass on
	idle      time.Time             // since when holders have had nothing to do
	passed    int                   // number of blocks that members have passed on since then
	last      time.Time             // when the last block came, from any peer
	closed    bool                  // there are no members any more
}

// A partialPeer is a member of a narSwarm.
type partialPeer struct {
	weight   uint64
	bitfield wire.Bitmap // its bitfield, nil if it has not told
	asked    time.Time   // when it was asked for that
	proxy    bool        // it fetches the NAR from an upstream, and will have all of it
}

// An ask has all that the picker weighs of a peer from which one more block can be requested.
type ask struct {
	id     peer.ID
	each   time.Duration // that it takes for a block
	owed   []int         // what was requested from it and has not come; askBitfield stands for its bitfield
	others float64       // blocks that the other holders deliver together in a second, as far as is known
}

// newPicker returns a picker for a NAR with that number of blocks, on the node self.
func newPicker(blocks int, nar store.Hash, self peer.ID, now time.Time) picker {
	return picker{blocks: make([]block, blocks), left: blocks,
		swarm: narSwarm{nar: nar, weight: WeightSeed(self, nar), members: map[peer.ID]*partialPeer{},
			gone: map[peer.ID]time.Time{}, last: now}}
}

// WeightSeed is where the rendezvous weights of a peer's blocks begin.
func WeightSeed(id peer.ID, nar store.Hash) uint64 {
	h := sha256.Sum256(append(nar[:], id...))
	return binary.BigEndian.Uint64(h[:])
}

// Weight mixes as splitmix64 does (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
func Weight(seed uint64, block int) uint64 {
	z := seed + uint64(block+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// A sender is the peer that sent a block, and whether it had verified the block.
type sender struct {
	id      peer.ID
	relayed bool // it had not, and so does not vouch for the block
}

// fromUpstream stands among peers for the upstream of a fetch.
const fromUpstream peer.ID = "upstream"

// fromDisk stands among peers for blocks of this machine's disk: an earlier fetch has left them, or they were rebuilt.
// No peer is blamed for them.
const fromDisk peer.ID = "disk"

// pick returns the block to request from a peer, or false if there is none for it now, and records the request. From a
// holder that is the first missing block, or one that the swarm's assignment allows. If all have been requested, it is
// the one that is expected last, provided that this peer would deliver it sooner (endgame). From a partial peer it may
// be [askBitfield].
func (p *picker) pick(a ask, now time.Time) (int, bool) {
	due := now.Add(time.Duration(len(a.owed)+1) * a.each) // when this peer would deliver
	for p.next < len(p.blocks) && p.blocks[p.next].state != blockMissing {
		p.next++
	}
	i, ok := p.next, true
	r := p.swarm.members[a.id]
	if len(p.swarm.members) == 0 {
		p.swarm.busy()
	}
	if r != nil {
		var sure bool
		if i, sure = p.pickPartial(r, a.owed, now); i == askBitfield {
			return i, true
		}
		if !sure {
			due = due.Add(PartialWait)
		}
	} else if len(p.swarm.members) > 0 {
		i, ok = p.pickWhole(a.each, now)
	}
	switch {
	case i == len(p.blocks):
		i, ok = p.endgame(now, due, a.owed, r)
	case r == nil && ok && p.soonerElsewhere(a.others, now, due):
		ok = false
	}
	if !ok {
		return 0, false
	}
	b := &p.blocks[i]
	b.state, b.from, b.due = blockAsked, a.id, due
	b.requests++
	return i, true
}

// soonerElsewhere reports whether the other holders can be expected to deliver all missing blocks well before due.
// Then a slow holder is spared, because other downloads may need it more.
func (p *picker) soonerElsewhere(others float64, now, due time.Time) bool {
	if now.Sub(p.swarm.last) > overdueAfter { // the expected blocks do not come
		return false
	}
	return others > 0 && now.Add(time.Duration(2*float64(p.left)/others*float64(time.Second))+tick).Before(due)
}

// endgame returns the block expected last of those under way, or false if all are expected before due. If r is not nil,
// its bitfield has that block.
func (p *picker) endgame(now, due time.Time, owed []int, r *partialPeer) (late int, ok bool) {
	for i := range p.blocks {
		b := &p.blocks[i]
		enough := b.requests >= MaxRequests && now.Sub(b.due) < hopelessAfter
		if b.state != blockAsked || enough || slices.Contains(owed, i) || r != nil && !r.bitfield.Has(i) {
			continue
		}
		if eta := b.expected(now); eta.After(due.Add(tick)) {
			late, due, ok = i, eta, true
		}
	}
	return late, ok
}

// expected is when a block will come. One that is overdue is as far off again as it is overdue.
func (b *block) expected(now time.Time) time.Time {
	if now.Before(b.due) {
		return b.due
	}
	return now.Add(now.Sub(b.due))
}

// pickPartial returns the next block for a partial peer, of those in its bitfield or assigned to it; sure means that it
// has the block. It returns [askBitfield] if its bitfield is to be requested, and the number of blocks if there is
// nothing.
func (p *picker) pickPartial(r *partialPeer, owed []int, now time.Time) (i int, sure bool) {
	if len(p.blocks) > 1 && now.Sub(r.asked) > haveFresh && (r.bitfield == nil || len(owed) == 0) {
		r.asked = now
		return askBitfield, true
	}
	own := len(p.blocks)
	for i := p.next; i < len(p.blocks); i++ {
		if p.blocks[i].state != blockMissing {
			continue
		}
		if r.proxy || r.bitfield.Has(i) {
			return i, true
		}
		if own == len(p.blocks) && p.swarm.assignee(i, len(p.blocks)) == r {
			own = i
		}
	}
	return own, false
}

// pickWhole returns the next block for a holder while there is a swarm: one that is assigned to this node, or one that
// no member passes on soon enough. It returns the number of blocks if all have been requested, and false if it is too
// early.
func (p *picker) pickWhole(each time.Duration, now time.Time) (int, bool) {
	const not = -1
	foreign, here := not, not // the first missing block that is assigned to a member, and the first that a member has
	for i := p.next; i < len(p.blocks); i++ {
		switch {
		case p.blocks[i].state != blockMissing:
		case p.swarm.has(i):
			if here == not {
				here = i
			}
		case p.swarm.assignee(i, len(p.blocks)) == nil:
			p.swarm.busy()
			return i, true
		case foreign == not:
			foreign = i
		}
	}
	if p.swarm.keepsUp(each, now) {
		return 0, false
	}
	if foreign != not {
		return foreign, true
	}
	if here != not {
		return here, true
	}
	return len(p.blocks), true
}

// begin records that a block has come and is being written. It returns false if another peer was faster.
func (p *picker) begin(i int) bool {
	b := &p.blocks[i]
	if b.state == blockWriting || b.state == blockDone {
		return false
	}
	b.state = blockWriting
	return true
}

// done records that a block is here, and reports whether it was the last.
func (p *picker) done(i int, from peer.ID, relayed bool, now time.Time) (last bool) {
	b := &p.blocks[i]
	b.state, b.from, b.relayed = blockDone, from, relayed
	p.swarm.last = now
	if relayed {
		p.swarm.passed++
	}
	p.left--
	return p.left == 0
}

// reuse records that a block is here from the beginning.
func (p *picker) reuse(i int) {
	p.blocks[i] = block{state: blockDone, from: fromDisk}
	p.left--
}

// giveBack makes blocks that a peer owes missing again, unless they were requested from another one, too.
func (p *picker) giveBack(owed []int) {
	for _, i := range owed {
		if i == askBitfield {
			continue
		}
		b := &p.blocks[i]
		if b.requests--; b.requests == 0 && b.state == blockAsked {
			b.state = blockMissing
			p.next = min(p.next, i)
		}
	}
}

// again marks a block that is here as missing again.
func (p *picker) again(i int) {
	p.blocks[i] = block{}
	p.left++
	p.next = 0
}

// isOverdue reports whether a requested block was expected longer ago than that.
func (p *picker) isOverdue(by time.Duration, now time.Time) bool {
	for i := range p.blocks {
		if b := &p.blocks[i]; b.state == blockAsked && now.Sub(b.due) > by {
			return true
		}
	}
	return false
}

// senders returns the senders of the blocks, if all are here.
func (p *picker) senders() []sender {
	from := make([]sender, len(p.blocks))
	for i, b := range p.blocks {
		from[i] = sender{b.from, b.relayed}
	}
	return from
}

// offer makes a peer a member. It returns false if it is one already, if the swarm is closed, if there are many
// members, or if the peer had nothing a moment ago. The last two do not hold for a proxy; there are at most maxProxies
// of those.
func (s *narSwarm) offer(id peer.ID, proxy bool, now time.Time) bool {
	if s.closed || s.members[id] != nil || !proxy && (len(s.members) >= maxPartials || now.Sub(s.gone[id]) < HoldersFresh) {
		return false
	}
	s.members[id] = &partialPeer{weight: WeightSeed(id, s.nar)}
	s.assignees = nil
	return true
}

// drop takes a member out, and returns false if it is none.
func (s *narSwarm) drop(id peer.ID) bool {
	member := s.members[id] != nil
	if member {
		delete(s.members, id)
		s.assignees = nil
	}
	return member
}

// close takes out all members, and lets none in any more.
func (s *narSwarm) close() {
	clear(s.members)
	s.assignees, s.closed = nil, true
}

// setBitfield records the bitfield of a member.
func (s *narSwarm) setBitfield(id peer.ID, have wire.Bitmap, now time.Time) {
	if r := s.members[id]; r != nil {
		r.bitfield, r.asked = have, now
	}
}

// assignee returns the member to which a block is assigned; nil is this node.
func (s *narSwarm) assignee(i, blocks int) *partialPeer {
	if s.assignees == nil {
		s.assignees = make([]*partialPeer, blocks)
		for b := range s.assignees {
			best := Weight(s.weight, b)
			for _, r := range s.members {
				if w := Weight(r.weight, b); w > best {
					best, s.assignees[b] = w, r
				}
			}
		}
	}
	return s.assignees[i]
}

// has reports whether the bitfield of a member has a block.
func (s *narSwarm) has(i int) bool {
	for _, r := range s.members {
		if r.bitfield.Has(i) {
			return true
		}
	}
	return false
}

// busy records that holders have something to do.
func (s *narSwarm) busy() { s.idle, s.passed = time.Time{}, 0 }

// keepsUp reports whether a holder that takes each for a block is to leave the missing blocks to the other members.
// That is so at first, and then as long as they are at least half as fast: a member that passes on a block now and
// then, maybe a wrong one, must not delay a download.
func (s *narSwarm) keepsUp(each time.Duration, now time.Time) bool {
	if s.idle.IsZero() {
		s.idle = now
	}
	patience := min(max(patienceBlocks*each, minPatience), maxPatience)
	idle := now.Sub(s.idle)
	return idle < patience || now.Sub(s.last) < patience && 2*time.Duration(s.passed)*each > idle
}
