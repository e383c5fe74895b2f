package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/store"
	"narbor/trust"
)

// A fetch is one NAR on its way: which blocks are here, which neighbours were asked for the others, which may be asked.
type fetch struct {
	node     *Node
	m        trust.Mapping
	shared   trust.Mapping // m as the sharing policy has checked it; zero if that refuses it
	draft    *store.Draft
	complete chan struct{}  // closed when no block is missing; made by run
	secret   bool           // no neighbour may learn that it is wanted; set by fly before it starts anything
	suspects []suspicion    // blocks that were fetched again; changes between runs only
	landed   func()         // called when the last source has been asked
	supplies int            // how often an upstream was asked; owned by the goroutine that calls honest
	own      atomic.Bool    // our upstream is at it
	again    bool           // after a doubt, holders were looked for; owned by the goroutine that calls honest
	urged    atomic.Bool    // neighbours wait for this node to ask its upstream
	manifest store.Manifest // while a holder's manifest is tested: what its blocks must be; changes between runs only

	mu       sync.Mutex // guards the rest
	blocks   []block
	left     int // blocks not done
	next     int // no block below it is missing
	all      []*neighbour
	waiting  []*neighbour // of all, those not asked yet
	excluded map[peer.ID]bool
	failures map[peer.ID]int // how often one has failed; [lied] or more if it has lied
	tooSlow  map[*neighbour]bool
	asked    map[*neighbour]since // the holders that have been asked for blocks
	err      error                // the draft cannot be written
	crowd    crowd
	helpers  map[peer.ID]bool // the neighbours that were asked to fetch it
	helped   bool             // one of them does, or did
	waited   bool             // for one of them, for so long that no other is asked
}

// since is when a holder was asked first, and the bytes that had come from it until then, of all NARs.
type since struct {
	at    time.Time
	bytes int64
}

// asks records that a holder is asked for blocks. The caller holds mu.
func (f *fetch) asks(nb *neighbour) {
	if _, ok := f.asked[nb]; !ok {
		f.asked[nb] = since{time.Now(), nb.tally.bytesReceived.Load()}
	}
}

type blockState byte

const (
	blockMissing blockState = iota
	blockAsked
	blockWriting
	blockDone
)

type block struct {
	state   blockState
	relayed bool      // done: its sender had not verified it
	copies  int       // number of peers that were asked for it and have not answered
	from    peer.ID   // asked: the peer that was asked last; done: its sender
	due     time.Time // asked: when it was expected
}

func newFetch(n *Node, m trust.Mapping, draft *store.Draft) *fetch {
	blocks := make([]block, store.NumBlocks(m.NarSize()))
	shared, ok := n.sharer.may(m)
	return &fetch{node: n, m: m, shared: shared, draft: draft, blocks: blocks, left: len(blocks), excluded: map[peer.ID]bool{}, helpers: map[peer.ID]bool{},
		failures: map[peer.ID]int{}, tooSlow: map[*neighbour]bool{}, asked: map[*neighbour]since{}, crowd: newCrowd(n.lan.Host().ID(), m.NarHash(), ok)}
}

// pick gives a holder its next block: the first that is missing, or as the crowd has it; or if all have been asked
// for, the one expected last, provided that this holder, after what it was asked before, would be sooner. It may
// be [askedHave] for a member of the crowd.
func (f *fetch) pick(nb *neighbour, asked []int) (int, bool) {
	each, known := nb.expect()
	if !known {
		each = overdueAfter
	}
	now := time.Now()
	mine := now.Add(time.Duration(len(asked)+1) * each)
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.next < len(f.blocks) && f.blocks[f.next].state != blockMissing {
		f.next++
	}
	i, ok := f.next, true
	r := f.crowd.members[nb.id]
	if len(f.crowd.members) == 0 {
		f.crowd.busy()
	}
	if r != nil {
		var sure bool
		if i, sure = f.pickRelayed(r, asked); i == askedHave {
			return i, true
		}
		if !sure {
			mine = mine.Add(relayWait)
		}
	} else if len(f.crowd.members) > 0 {
		i, ok = f.pickVouched(each)
	}
	switch {
	case i == len(f.blocks):
		i = f.latest(now, mine, asked, r)
	case r == nil && ok && f.soonerElsewhere(nb, now, mine):
		ok = false
	}
	if i < 0 || !ok {
		return 0, false
	}
	b := &f.blocks[i]
	b.state, b.from, b.due = blockAsked, nb.id, mine
	b.copies++
	return i, true
}

// soonerElsewhere reports whether the other holders can be expected to deliver all missing blocks well before mine.
// Then a slow holder is spared, because other fetches may need it more. The caller holds mu.
func (f *fetch) soonerElsewhere(nb *neighbour, now, mine time.Time) bool {
	if now.Sub(f.crowd.last) > overdueAfter { // what can be expected does not come
		return false
	}
	blocks, pace := f.left, 0.0 // pace is in blocks per second
	for _, other := range f.all {
		if each, known := other.expect(); known && other != nb && !f.excluded[other.id] && !slices.Contains(f.waiting, other) {
			pace += 1 / each.Seconds()
		}
	}
	return pace > 0 && now.Add(time.Duration(2*float64(blocks)/pace*float64(time.Second))+tick).Before(mine)
}

// latest returns the block expected last of those under way, or -1 if all are expected before mine. If r is not nil, it
// has that block. The caller holds mu.
func (f *fetch) latest(now, mine time.Time, asked []int, r *relay) int {
	late := -1
	for i := range f.blocks {
		b := &f.blocks[i]
		enough := b.copies >= maxCopies && now.Sub(b.due) < hopelessAfter
		if b.state != blockAsked || enough || slices.Contains(asked, i) || r != nil && !r.have.has(i) {
			continue
		}
		if eta := b.expected(now); eta.After(mine.Add(tick)) {
			late, mine = i, eta
		}
	}
	return late
}

// expected is when a block will come. One that is overdue is as far off again as it is overdue.
func (b *block) expected(now time.Time) time.Time {
	if now.Before(b.due) {
		return b.due
	}
	return now.Add(now.Sub(b.due))
}

// deliver writes a block, unless another peer was faster. It fails if the block does not match the manifest of its
// sender.
func (f *fetch) deliver(nb *neighbour, i int, data []byte, relayed bool) error {
	if f.manifest != nil && sha256.Sum256(data) != f.manifest[i].Hash {
		f.giveBack([]int{i})
		return fmt.Errorf("block %d is not the one in its manifest: %w", i, store.ErrCorrupt)
	}
	nb.brought.Store(time.Now().UnixNano())
	f.mu.Lock()
	f.blocks[i].copies--
	f.mu.Unlock()
	if !f.write(i, data, nb.id, relayed) {
		nb.tally.wasted.Add(int64(len(data)))
	}
	return nil
}

// write writes a block, and returns false if another peer was faster. A write error is not the sender's fault, and ends
// the fetch.
func (f *fetch) write(i int, data []byte, from peer.ID, relayed bool) (first bool) {
	f.mu.Lock()
	b := &f.blocks[i]
	if b.state == blockWriting || b.state == blockDone {
		f.mu.Unlock()
		return false
	}
	b.state = blockWriting
	f.mu.Unlock()

	_, err := f.draft.WriteAt(data, int64(i)*store.BlockSize)

	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.err = err
		f.end()
		return true
	}
	b.state, b.from, b.relayed = blockDone, from, relayed
	origin, name := f.origin(from)
	f.node.received[origin].Add(int64(len(data)))
	f.node.cfg.Observer.Received(origin, f.m, name, len(data))
	f.crowd.last = time.Now()
	if relayed {
		f.crowd.passed++
	}
	f.tell()
	if f.left--; f.left == 0 {
		f.end()
	}
	return true
}

// end wakes the goroutines that wait for this run's end. The caller holds mu.
func (f *fetch) end() {
	select {
	case <-f.complete:
	default:
		close(f.complete)
	}
}

// giveBack makes blocks that a holder owes missing again, unless another was asked, too.
func (f *fetch) giveBack(owed []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range owed {
		if i == askedHave {
			continue
		}
		b := &f.blocks[i]
		if b.copies--; b.copies == 0 && b.state == blockAsked {
			b.state = blockMissing
			f.next = min(f.next, i)
		}
	}
}

// failed takes a holder out of the fetch, and strikes it if the error says that it lied.
func (f *fetch) failed(ctx context.Context, nb *neighbour, err error) {
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, errWire) {
		f.liar(nb.id, err)
		return
	}
	if errors.Is(err, store.ErrCorrupt) {
		f.wrong(nb.id, err)
		return
	}
	if f.leave(nb) { // it owes nothing
		f.node.log.Debug("neighbour passes nothing on", zap.Stringer("peer", nb.id), zap.Stringer("path", f.m.Path()), zap.Error(err))
		return
	}
	f.shunHelper(nb)
	f.node.log.Info("neighbour did not deliver", zap.Stringer("peer", nb.id), zap.Stringer("path", f.m.Path()), zap.Error(err))
	failures := 1
	if stalledOut(err) {
		f.mu.Lock()
		f.tooSlow[nb] = true
		f.mu.Unlock()
		failures = stalled
	}
	f.exclude(nb.id, failures)
}

// liar strikes a peer, and takes it out of the fetch for good.
func (f *fetch) liar(id peer.ID, cause error) {
	f.node.counts.refuse(refusal(cause))
	f.node.strike(id, fmt.Errorf("%s: %w", f.m.Path(), cause))
	f.exclude(id, lied)
}

// wrong records that what a peer vouches for is wrong, and takes it out of the fetch for good.
func (f *fetch) wrong(id peer.ID, cause error) {
	f.exclude(id, lied)
	f.node.sentWrong(id, f.m, cause)
}

func (f *fetch) exclude(id peer.ID, failures int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.excluded[id] = true
	f.failures[id] += failures
}

// nextHolder returns a holder that has not been asked yet, or nil.
func (f *fetch) nextHolder() *neighbour {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.waiting) > 0 {
		nb := f.waiting[0]
		f.waiting = f.waiting[1:]
		if !f.excluded[nb.id] {
			f.asks(nb)
			return nb
		}
	}
	return nil
}

// join adds holders, unless a single one is on trial.
func (f *fetch) join(holders []holder) {
	var whole []*neighbour
	for _, h := range holders {
		if h.receiving {
			f.meet(h.neighbour)
		} else {
			whole = append(whole, h.neighbour)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nb := range byPromise(whole) {
		f.crowd.drop(nb.id)
		if f.manifest == nil && !f.excluded[nb.id] && !slices.Contains(f.all, nb) {
			f.all = append(f.all, nb)
			f.waiting = append(f.waiting, nb)
		}
	}
}

// readmit adds the holders found after no source was left, and lets holders that failed without a lie try again: a
// machine that changes from cable to radio is back under another address a moment later.
func (f *fetch) readmit(holders []holder) {
	f.mu.Lock()
	for _, nb := range holders {
		if f.excluded[nb.id] && f.failures[nb.id] < lied {
			delete(f.excluded, nb.id)
			f.all = slices.DeleteFunc(f.all, func(old *neighbour) bool { return old.id == nb.id })
		}
	}
	f.mu.Unlock()
	f.join(holders)
}

// nobody reports whether there is no peer to ask.
func (f *fetch) nobody() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all) == 0 && len(f.crowd.members) == 0
}

// only makes holders, or with none everybody not excluded, the ones to ask in the next run.
func (f *fetch) only(holders ...*neighbour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = holders
	if len(holders) == 0 {
		f.waiting = byPromise(slices.Clone(f.all))
	}
}

func (f *fetch) missing() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left
}

// state says whether all blocks are here, or why they never will be.
func (f *fetch) state() (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left == 0, f.err
}

// unasked says whether there is work for one more holder.
func (f *fetch) unasked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next < len(f.blocks)
}

// overdue says whether a block was expected longer ago than that.
func (f *fetch) overdue(by time.Duration) bool {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.blocks {
		if b := &f.blocks[i]; b.state == blockAsked && now.Sub(b.due) > by {
			return true
		}
	}
	return false
}

// contributors counts the blocks in the draft by the peer that vouches for them.
func (f *fetch) contributors() map[peer.ID]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	by := map[peer.ID]int{}
	for _, b := range f.blocks {
		if b.state == blockDone && !b.relayed {
			by[b.from]++
		}
	}
	return by
}
