package fetch

import (
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

// A plan records which blocks of a NAR are missing and which peers may be asked for them. One lock guards the picker
// and the sources, because a peer that becomes a holder leaves the swarm at the same moment. The methods of a plan do
// no I/O and may be called concurrently.
type plan struct {
	takes    func(*peers.Neighbour) bool // reports whether blocks of this NAR are taken from a neighbour
	complete chan struct{}               // closed when the run ends; made by begin while no goroutine runs
	end      func()                      // closes it, once

	mu       sync.Mutex // guards the rest
	picker   picker
	sources  sources
	partials []*peers.Neighbour // members of the swarm from which no blocks are taken yet
	err      error              // the draft cannot be written, or the NAR cannot come in time
}

// begin starts a run, which is one attempt to get all missing blocks, and returns the number of those.
func (p *plan) begin() int {
	complete := make(chan struct{})
	p.complete, p.end = complete, sync.OnceFunc(func() { close(complete) })
	return p.missing()
}

func (p *plan) reuse(blocks []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range blocks {
		p.picker.reuse(i)
	}
}

func (p *plan) missing() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.picker.left
}

// state reports whether all blocks are here, or why they will not come.
func (p *plan) state() (done bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.picker.left == 0, p.err
}

func (p *plan) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	p.end()
}

// needsHolder reports whether another holder is to be asked: a block is overdue, or there is room for a holder and a
// block that was not requested.
func (p *plan) needsHolder(room bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.picker.isOverdue(overdueAfter, time.Now()) || room && p.picker.next < len(p.picker.blocks)
}

func (p *plan) nextHolder() *peers.Neighbour {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sources.next(time.Now())
}

// nextPartial returns a member of the swarm from which no blocks are taken yet, or nil.
func (p *plan) nextPartial() *peers.Neighbour {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.partials) > 0 {
		nb := p.partials[0]
		p.partials = p.partials[1:]
		if p.picker.swarm.members[nb.ID] != nil {
			return nb
		}
	}
	return nil
}

func (p *plan) join(holders []*peers.Neighbour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, nb := range holders {
		p.picker.swarm.drop(nb.ID)
		if p.sources.isNew(nb) && p.takes(nb) {
			p.sources.add(nb)
		}
	}
}

// addMember makes a neighbour a member of the swarm, unless it is a holder, or blocks are not taken from it. It reports
// whether the neighbour has become one.
func (p *plan) addMember(nb *peers.Neighbour, proxy bool) bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.sources.isNew(nb) || !p.takes(nb) || nb.Tally.IsDistrusted(now) || !p.picker.swarm.offer(nb.ID, proxy, now) {
		return false
	}
	p.partials = append(p.partials, nb)
	return true
}

func (p *plan) readmit(holders []Holder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range holders {
		p.sources.readmit(h.Neighbour.ID)
	}
}

func (p *plan) restrictTo(holders ...*peers.Neighbour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sources.restrictTo(holders...)
}

func (p *plan) exclude(id peer.ID, failures int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sources.exclude(id, failures)
}

// leavesOut reports whether nothing unverified is taken from a neighbour.
func (p *plan) leavesOut(nb *peers.Neighbour) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sources.excluded[nb.ID] || !p.takes(nb) || nb.Tally.IsDistrusted(time.Now())
}

func (p *plan) hasLied(id peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sources.hasLied(id)
}

func (p *plan) holders() []*peers.Neighbour {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sources.all)
}

// swarm reports whether neighbours are receiving the NAR, too, and when the last block came, from any peer.
func (p *plan) swarm() (members bool, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.picker.swarm.members) > 0, p.picker.swarm.last
}

func (p *plan) markSlow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sources.markSlow()
}

// pick returns the block to request from a holder or a partial peer, or false if there is none for it now. It may be
// [askBitfield] for a partial peer.
func (p *plan) pick(nb *peers.Neighbour, owed []int) (int, bool) {
	a := ask{id: nb.ID, each: overdueAfter, owed: owed}
	if each, known := nb.Expect(); known {
		a.each = each
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	a.others = p.sources.othersRate(nb)
	return p.picker.pick(a, now)
}

func (p *plan) arrives(i int, from peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if from != fromUpstream { // of which blocks are not requested
		p.picker.blocks[i].requests--
	}
	return p.picker.begin(i)
}

// done records that a block is here, and ends the run if it was the last.
func (p *plan) done(i int, from peer.ID, relayed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.picker.done(i, from, relayed, time.Now()) {
		p.end()
	}
}

func (p *plan) giveBack(owed ...int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.picker.giveBack(owed)
}

func (p *plan) again(blocks []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range blocks {
		p.picker.again(i)
	}
}

// senders returns the senders of the blocks, which are all here, and the holders that are not excluded.
func (p *plan) senders() (blocks []sender, present []*peers.Neighbour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.picker.senders(), p.sources.present()
}

func (p *plan) role(nb *peers.Neighbour) (partial, proxy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.picker.swarm.members[nb.ID]
	return r != nil, r != nil && r.proxy
}

// setProxy makes a neighbour one that will have all blocks, or ends that. It returns false if no blocks are taken from
// it.
func (p *plan) setProxy(nb *peers.Neighbour, proxy bool) bool {
	if proxy {
		p.addMember(nb, true)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.picker.swarm.members[nb.ID]
	if r != nil {
		r.proxy = proxy
	}
	return r != nil
}

// setBitfield records which blocks a member of the swarm has.
func (p *plan) setBitfield(nb *peers.Neighbour, have wire.Bitmap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.picker.swarm.setBitfield(nb.ID, have, time.Now())
}

// becameHolder records that a peer has the whole NAR by now.
func (p *plan) becameHolder(nb *peers.Neighbour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.picker.swarm.drop(nb.ID) {
		p.sources.addAsked(nb, time.Now())
	}
}

// failed takes out a neighbour that did not deliver, and reports whether it was only a member of the swarm, which owes
// nothing. With stuck, it has made no progress within its time.
func (p *plan) failed(nb *peers.Neighbour, stuck bool) (partial bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.picker.swarm.gone[nb.ID] = time.Now()
	switch {
	case p.picker.swarm.drop(nb.ID):
		return true
	case stuck:
		p.sources.tooSlow[nb] = true
		p.sources.exclude(nb.ID, stalled)
	default:
		p.sources.exclude(nb.ID, 1)
	}
	return false
}

// closeSwarm takes out all members of the swarm for good.
func (p *plan) closeSwarm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.picker.swarm.close()
}
