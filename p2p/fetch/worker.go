package fetch

import (
	"context"
	"errors"
	"time"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
)

// work asks one holder for blocks until none is missing, or it fails.
func (d *download) work(ctx context.Context, nb *peers.Neighbour) {
	w := &worker{download: d, nb: nb}
	defer w.end()
	for ctx.Err() == nil {
		if err := w.fill(ctx); err != nil {
			d.failed(ctx, nb, err)
			return
		}
		if len(w.owed) > 0 {
			if err := w.receive(ctx); err != nil {
				d.failed(ctx, nb, err)
				return
			}
			continue
		}
		select {
		case <-time.After(tick): // blocks that others owe may become overdue
		case <-d.plan.complete:
			return
		case <-ctx.Done():
		}
	}
}

// A worker is one holder's part in a fetch. It is owned by the goroutine that runs work.
type worker struct {
	*download
	nb     *peers.Neighbour
	ex     *peers.Exchange
	stop   func() bool // keeps the end of the fetch from resetting ex; nil while nothing is under way
	owed   []int       // blocks under way, in the order asked; [askBitfield] stands for its bitfield
	last   time.Time
	laters int // answers in a row that were "not here yet"
}

// MaxLaters is the number of blocks in a row that a holder may not have yet before it is no longer asked. A neighbour
// that is still receiving the NAR takes [PartialWait] to answer for each.
const MaxLaters = 16

// fill keeps as many blocks under way as the link needs to stay busy.
func (w *worker) fill(ctx context.Context) error {
	for len(w.owed) < w.window() {
		i, ok := w.plan.pick(w.nb, w.owed)
		if !ok {
			return nil
		}
		w.owed = append(w.owed, i)
		w.nb.Busy.Add(1)
		if w.ex == nil {
			ex, err := w.nb.Take(ctx)
			if err != nil {
				return err
			}
			w.ex = ex
		}
		if ex := w.ex; w.stop == nil {
			w.stop = context.AfterFunc(ctx, func() { ex.Reset() })
		}
		if len(w.owed) == 1 {
			w.last = time.Now()
		}
		if err := w.ex.Send(w.request(i)); err != nil {
			return w.reopen(ctx, err)
		}
	}
	return nil
}

// request asks for a block, or for which blocks there are.
func (d *download) request(i int) wire.Request {
	r := wire.Request{Kind: wire.AskBlock, HashParts: []store.HashPart{d.Wanted.Path().HashPart()}, NAR: d.Wanted.NarHash(), Block: i}
	if i == askBitfield {
		r.Kind, r.Block = wire.AskHave, 0
	}
	return r
}

// receive reads the answer to what was asked for first.
func (w *worker) receive(ctx context.Context) error {
	w.ex.Until = time.Now().Add(BlockTimeout)
	i := w.owed[0]
	if i == askBitfield {
		have, err := wire.ReadHave(w.ex.Reader, store.NumBlocks(w.Wanted.NarSize()))
		if err != nil {
			return w.reopen(ctx, err)
		}
		w.answered()
		w.plan.setBitfield(w.nb, have)
		return nil
	}
	buf := wire.NewBlock()
	defer buf.Free()
	block := buf.Room()[:store.BlockLen(w.Wanted.NarSize(), i)]
	packed, unverified, err := wire.ReadBlock(w.ex.Reader, block)
	if errors.Is(err, wire.ErrLater) {
		w.answered()
		w.plan.giveBack(i)
		if w.laters++; w.laters > MaxLaters {
			if _, proxy := w.plan.role(w.nb); !proxy {
				return err // otherwise it could have the block asked of itself alone for ever
			}
		}
		return nil
	}
	if err != nil {
		return w.reopen(ctx, err)
	}
	if now := time.Now(); !unverified { // otherwise it has waited for the block
		w.nb.Measured(now.Sub(w.last), len(block))
		w.last = now
		w.plan.becameHolder(w.nb)
	}
	w.laters = 0
	w.answered()
	w.nb.Tally.BlocksReceived.Add(1)
	w.nb.Tally.BytesReceived.Add(int64(len(block)))
	w.nb.Tally.WireReceived.Add(int64(packed))
	return w.deliver(w.nb, i, block, unverified)
}

// answered records that what was asked for first has been read. It comes before the last block is delivered, for
// that ends the fetch, and the stream must live on.
func (w *worker) answered() {
	w.ex.Kept = false
	if w.owed = w.owed[1:]; len(w.owed) == 0 {
		w.rest()
	}
	w.nb.Busy.Add(-1)
}

// rest records that every answer has been read.
func (w *worker) rest() {
	if !w.stop() {
		w.ex = nil // too late: it is being reset
	}
	w.stop = nil
}

// reopen gives a stream that was kept open a second chance: the other side may have closed it meanwhile.
func (w *worker) reopen(ctx context.Context, err error) error {
	if !w.ex.Kept || ctx.Err() != nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, wire.ErrWire) {
		return err
	}
	w.drop()
	return nil
}

// drop returns the blocks under way to the other holders, and resets the stream, if there is one.
func (w *worker) drop() {
	w.plan.giveBack(w.owed...)
	w.nb.Busy.Add(int32(-len(w.owed)))
	w.owed = nil
	if w.ex != nil && (w.stop == nil || w.stop()) { // otherwise that is under way
		w.ex.Reset()
	}
	w.ex, w.stop = nil, nil
}

// end gives the stream back to the neighbour if nothing is under way on it.
func (w *worker) end() {
	if w.ex != nil && len(w.owed) == 0 {
		w.nb.Put(w.ex)
		return
	}
	w.drop()
}

// window returns the number of requests that are kept under way.
func (w *worker) window() int {
	if partial, _ := w.plan.role(w.nb); partial {
		return PartialWindow
	}
	return w.nb.Window()
}
