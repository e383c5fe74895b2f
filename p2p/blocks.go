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

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// A fetch is one NAR on its way: which blocks are here, which neighbours were asked for the others, which may be asked.
type fetch struct {
	*fetching
	m        trust.Mapping
	shared   trust.Mapping // m as the sharing policy has checked it; zero if that refuses it
	draft    *store.Draft
	complete chan struct{} // closed when no block is missing; made by run
	secret   bool          // no neighbour may learn that it is wanted; set by fly before it starts anything
	landed   func()        // called when the last source has been asked
	supplies int           // how often an upstream was asked; owned by the goroutine that calls honest
	own      atomic.Bool   // our upstream is at it
	again    bool          // after a doubt, holders were looked for; owned by the goroutine that calls honest
	urged    atomic.Bool   // neighbours wait for this node to ask its upstream
	blame    blame

	mu       sync.Mutex // guards the rest
	picker   picker
	all      []*neighbour
	waiting  []*neighbour // of all, those not asked yet
	excluded map[peer.ID]bool
	failures map[peer.ID]int // how often one has failed; [lied] or more if it has lied
	tooSlow  map[*neighbour]bool
	asked    map[*neighbour]since // the holders that have been asked for blocks
	err      error                // the draft cannot be written
	swarming swarming
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

// newFetch returns a fetch that writes into the draft. shared is the mapping as the sharing policy has checked it; without
// ok that refuses it.
func newFetch(of *fetching, m trust.Mapping, draft *store.Draft, shared trust.Mapping, ok bool) *fetch {
	return &fetch{fetching: of, m: m, shared: shared, draft: draft,
		picker:   newPicker(store.NumBlocks(m.NarSize()), m.NarHash(), of.self, time.Now()),
		excluded: map[peer.ID]bool{}, helpers: map[peer.ID]bool{}, failures: map[peer.ID]int{}, tooSlow: map[*neighbour]bool{},
		asked:    map[*neighbour]since{},
		swarming: swarming{shared: ok, news: make(chan struct{})}}
}

// pick returns the block to request from a holder or a partial peer, or false if there is none for it now. It may be
// [askedHave] for a partial peer.
func (f *fetch) pick(nb *neighbour, owed []int) (int, bool) {
	a := ask{id: nb.id, each: overdueAfter, owed: owed}
	if each, known := nb.expect(); known {
		a.each = each
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	a.others = f.othersPace(nb)
	return f.picker.pick(a, now)
}

// othersPace returns how many blocks a second the other holders deliver together, as far as that is known. The caller
// holds mu.
func (f *fetch) othersPace(nb *neighbour) (pace float64) {
	for _, other := range f.all {
		if each, known := other.expect(); known && other != nb && !f.excluded[other.id] && !slices.Contains(f.waiting, other) {
			pace += 1 / each.Seconds()
		}
	}
	return pace
}

// deliver writes a block, unless another peer was faster. It fails if the block does not match the manifest of its
// sender.
func (f *fetch) deliver(nb *neighbour, i int, data []byte, relayed bool) error {
	if f.blame.comparing() && !f.blame.accepts(i, sha256.Sum256(data)) {
		f.giveBack([]int{i})
		return fmt.Errorf("block %d is not the one in its manifest: %w", i, store.ErrCorrupt)
	}
	nb.brought.Store(time.Now().UnixNano())
	f.mu.Lock()
	f.picker.blocks[i].copies--
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
	first = f.picker.begin(i)
	f.mu.Unlock()
	if !first {
		return false
	}

	_, err := f.draft.WriteAt(data, int64(i)*store.BlockSize)

	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.err = err
		f.end()
		return true
	}
	last := f.picker.done(i, from, relayed, time.Now())
	origin, name := f.origin(from)
	f.received(origin, f.m, name, len(data))
	f.tell()
	if last {
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
	f.picker.giveBack(owed)
}

// failed takes a holder out of the fetch, and strikes it if the error says that it lied.
func (f *fetch) failed(ctx context.Context, nb *neighbour, err error) {
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, wire.ErrWire) {
		f.liar(nb.id, err)
		return
	}
	if errors.Is(err, store.ErrCorrupt) {
		f.wrong(nb.id, err)
		return
	}
	if f.leave(nb) { // it owes nothing
		f.log.Debug("neighbour passes nothing on", zap.Stringer("peer", nb.id), zap.Stringer("path", f.m.Path()), zap.Error(err))
		return
	}
	f.shunHelper(nb)
	f.log.Info("neighbour did not deliver", zap.Stringer("peer", nb.id), zap.Stringer("path", f.m.Path()), zap.Error(err))
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
	f.conduct.Strike(id, fmt.Errorf("%s: %w", f.m.Path(), cause))
	f.exclude(id, lied)
}

// wrong records that what a peer vouches for is wrong, and takes it out of the fetch for good.
func (f *fetch) wrong(id peer.ID, cause error) {
	f.exclude(id, lied)
	f.conduct.Wrong(id, f.m, cause)
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
		f.picker.swarm.drop(nb.id)
		if !f.blame.comparing() && !f.excluded[nb.id] && !slices.Contains(f.all, nb) && f.conduct.Takes(nb, f.m) {
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
	return len(f.all) == 0 && len(f.picker.swarm.members) == 0
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
	return f.picker.left
}

// state says whether all blocks are here, or why they never will be.
func (f *fetch) state() (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.left == 0, f.err
}

// unasked says whether there is work for one more holder.
func (f *fetch) unasked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.next < len(f.picker.blocks)
}

// overdue says whether a block was expected longer ago than that.
func (f *fetch) overdue(by time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.overdue(by, time.Now())
}

// contributors counts the blocks in the draft by the peer that vouches for them.
func (f *fetch) contributors() map[peer.ID]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.picker.contributors()
}
