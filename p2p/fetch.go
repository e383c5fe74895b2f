package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/trust"
)

const (
	// maxWorkers is how many holders are asked for blocks of one NAR at once; the others stand by.
	maxWorkers = 8
	// maxCopies is how many holders may be asked for one block before one of them has answered or failed.
	maxCopies = 3
	// overdueAfter is how late a block may be before a stand-by holder takes part, and what a block is expected to
	// take from a holder that was never measured.
	overdueAfter = 50 * time.Millisecond
	// tick is how often somebody looks for blocks that are overdue.
	tick = 10 * time.Millisecond
	// hopelessAfter is how late a block may be before [maxCopies] counts no longer: those who were asked may be in
	// league, each sending a byte now and then.
	hopelessAfter = time.Second
	// blockTimeout bounds what a trickle can hold up: 256 KiB take 20 s at 100 kbit/s.
	blockTimeout = 30 * time.Second
	// manifestTimeout and manifestPace, in bytes of the NAR per second, bound how long a holder may take to hash a
	// NAR that it has to read from a slow disk first.
	manifestTimeout, manifestPace = 10 * time.Second, 32 << 20
	// lied, as a number of failures, is how many end a holder's part in a fetch: one lie, or so many broken streams.
	lied = 3
)

// Fetch gets the NAR of a mapping from the neighbours who have it, all at once, into the spool. Its bytes have the
// mapping's NarHash. The caller closes what it gets. The error wraps [store.ErrNotFound] if no honest neighbour
// is left that has it, and [store.ErrNoSpace] if the spool is full.
func (n *Node) Fetch(ctx context.Context, m trust.Mapping) (*store.Spooled, error) {
	if sp, ok := n.cfg.Spool.Get(m.NarHash()); ok {
		// Another mapping may have brought it here, whose check said nothing about this path.
		if err := m.CheckNAR(sp); err != nil {
			sp.Close()
			return nil, fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
		}
		return sp, nil
	}
	holders := n.holders(ctx, m, false)
	if len(holders) == 0 {
		return nil, fmt.Errorf("%s: no neighbour has it: %w", m.Path(), store.ErrNotFound)
	}
	draft, err := n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		n.sharer.closeIdle(0) // what is kept open for neighbours, the spool cannot clear out
		draft, err = n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	defer draft.Discard()
	f := newFetch(n, m, draft, holders)
	start := time.Now()
	sp, err := f.honest(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path(), err)
	}
	n.fetched.add(m)
	n.log.Debug("fetched", zap.Stringer("path", m.Path()), zap.Int64("size", m.NarSize()),
		zap.Duration("dur", time.Since(start)), zap.Int("peers", len(f.contributors())))
	return sp, nil
}

// honest fetches, and convicts who lied, until the NAR is right or nobody is left.
func (f *fetch) honest(ctx context.Context) (*store.Spooled, error) {
	for {
		if err := f.run(ctx); err != nil {
			return nil, err
		}
		sp, err := f.draft.Commit(f.m.CheckNAR)
		if errors.Is(err, store.ErrCorrupt) {
			sp, err = f.convict(ctx, err)
		}
		if sp != nil || err != nil {
			return sp, err
		}
	}
}

// run gets all blocks that are missing. It returns once they are in the draft, or nobody is left to ask.
func (f *fetch) run(ctx context.Context) error {
	f.complete = make(chan struct{})
	if f.missing() == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ticker := time.NewTicker(overdueAfter)
	defer ticker.Stop()
	ended := make(chan *neighbour)
	working := 0
	defer func() {
		cancel()
		for ; working > 0; working-- {
			<-ended
		}
	}()
	start := func() bool {
		nb := f.nextHolder()
		if nb == nil {
			return false
		}
		working++
		go func() {
			f.work(ctx, nb)
			ended <- nb
		}()
		return true
	}
	for working < min(maxWorkers, f.missing()) && start() {
	}
	askedAround := time.Now()
	for before := -1; ; { // how many blocks were missing when nobody was left, the last time
		if done, err := f.state(); done || err != nil {
			return err
		}
		if working == 0 && !start() {
			left := f.missing()
			if left == before || f.manifest != nil {
				return fmt.Errorf("no neighbour is left that has it: %w", store.ErrNotFound)
			}
			before = left
			f.readmit(f.node.holders(ctx, f.m, true))
			continue
		}
		select {
		case <-ended:
			working--
		case <-ticker.C:
			askedAround = f.lookAround(askedAround)
			if f.overdue(overdueAfter) || working < maxWorkers && f.unasked() {
				start()
			}
		case <-f.complete:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lookAround takes in who answered later than the first, or has the NAR by now. It returns when everybody was asked.
func (f *fetch) lookAround(asked time.Time) time.Time {
	if time.Since(asked) > holdersFresh {
		f.node.askAround(f.m)
		asked = time.Now()
	}
	f.join(f.node.known(f.m))
	return asked
}

// work asks one holder for blocks until none is missing, or it fails.
func (f *fetch) work(ctx context.Context, nb *neighbour) {
	w := &worker{fetch: f, nb: nb}
	defer w.end()
	for ctx.Err() == nil {
		if err := w.fill(ctx); err != nil {
			f.failed(ctx, nb, err)
			return
		}
		if len(w.asked) > 0 {
			if err := w.receive(ctx); err != nil {
				f.failed(ctx, nb, err)
				return
			}
			continue
		}
		select {
		case <-time.After(tick): // what others owe may become overdue
		case <-f.complete:
			return
		case <-ctx.Done():
		}
	}
}

// A worker is one holder's part in a fetch. It is owned by the goroutine that runs work.
type worker struct {
	fetch *fetch
	nb    *neighbour
	ex    *exchange
	stop  func() bool // keeps the end of the fetch from resetting ex; nil while nothing is under way
	asked []int       // blocks under way, in the order asked
	last  time.Time
}

// fill keeps as many blocks under way as the link needs to stay busy.
func (w *worker) fill(ctx context.Context) error {
	for len(w.asked) < w.nb.window() {
		i, ok := w.fetch.pick(w.nb, w.asked)
		if !ok {
			return nil
		}
		w.asked = append(w.asked, i)
		w.nb.busy.Add(1)
		if w.ex == nil {
			ex, err := w.nb.take(ctx)
			if err != nil {
				return err
			}
			w.ex = ex
		}
		if ex := w.ex; w.stop == nil {
			w.stop = context.AfterFunc(ctx, func() { ex.Reset() })
		}
		if len(w.asked) == 1 {
			w.last = time.Now()
		}
		r := request{kind: askBlock, hashParts: []store.HashPart{w.fetch.m.Path().HashPart()}, nar: w.fetch.m.NarHash(), block: i}
		if err := w.ex.send(r); err != nil {
			return w.reopen(ctx, err)
		}
	}
	return nil
}

// receive reads the block that was asked for first.
func (w *worker) receive(ctx context.Context) error {
	buf := blockBuffers.Get().(*[]byte)
	defer blockBuffers.Put(buf)
	i := w.asked[0]
	block := (*buf)[:store.BlockLen(w.fetch.m.NarSize(), i)]
	w.ex.until = time.Now().Add(blockTimeout)
	wire, err := readBlock(w.ex.br, block)
	if err != nil {
		return w.reopen(ctx, err)
	}
	w.ex.kept = false
	now := time.Now()
	w.nb.measured(now.Sub(w.last), len(block))
	w.last = now
	if w.asked = w.asked[1:]; len(w.asked) == 0 {
		w.rest()
	}
	w.nb.busy.Add(-1)
	w.nb.tally.blocksReceived.Add(1)
	w.nb.tally.bytesReceived.Add(int64(len(block)))
	w.nb.tally.wireReceived.Add(int64(wire))
	return w.fetch.deliver(w.nb, i, block)
}

// rest takes note that every answer has been read. It comes before the last block is delivered, for that ends the
// fetch, and the stream must live on.
func (w *worker) rest() {
	if !w.stop() {
		w.ex = nil // too late: it is being reset
	}
	w.stop = nil
}

// reopen gives a stream that was kept open a second chance: the other side may have closed it meanwhile.
func (w *worker) reopen(ctx context.Context, err error) error {
	if !w.ex.kept || ctx.Err() != nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, errWire) {
		return err
	}
	w.drop()
	return nil
}

// drop returns what is under way to the others, and resets the stream, if there is one.
func (w *worker) drop() {
	w.fetch.giveBack(w.asked)
	w.nb.busy.Add(int32(-len(w.asked)))
	w.asked = nil
	if w.ex != nil && (w.stop == nil || w.stop()) { // otherwise that is under way
		w.ex.Reset()
	}
	w.ex, w.stop = nil, nil
}

// end gives the stream back to the neighbour if nothing is under way on it.
func (w *worker) end() {
	if w.ex != nil && len(w.asked) == 0 {
		w.nb.put(w.ex)
		return
	}
	w.drop()
}

// window is how many blocks are kept under way with a neighbour: what it delivers in 40 ms, so that the link stays
// busy over a round trip and a slow one is not owed much.
func (n *neighbour) window() int {
	const ahead = 40 * time.Millisecond
	d, ok := n.expect()
	if !ok {
		return 2
	}
	return min(max(int(ahead/d)+1, 2), 16)
}

// byPromise sorts holders: who has least to do, then who is fastest, and chance among equals.
func byPromise(holders []*neighbour) []*neighbour {
	rand.Shuffle(len(holders), func(i, j int) { holders[i], holders[j] = holders[j], holders[i] })
	slices.SortStableFunc(holders, func(a, b *neighbour) int {
		da, _ := a.expect()
		db, _ := b.expect()
		return cmp.Or(cmp.Compare(a.busy.Load(), b.busy.Load()), cmp.Compare(da, db))
	})
	return holders
}
