package fetch

import (
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"sync"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// content is the blocks of a NAR that are here. Other peers may get them while the rest arrives. Its methods may be
// called concurrently.
type content struct {
	draft   *spool.Draft
	narSize int64
	checked trust.Mapping // as the sharing policy has checked it; zero if that refuses it
	shared  bool          // other peers may get the blocks that are here

	mu     sync.Mutex // guards the rest
	here   wire.Bitmap
	closed bool          // no other peer may get a block any more
	news   chan struct{} // closed, and made anew, when a block has come
}

func newContent(m trust.Mapping, draft *spool.Draft, checked trust.Mapping, shared bool) *content {
	return &content{draft: draft, narSize: m.NarSize(), checked: checked, shared: shared,
		here: wire.NewBitmap(store.NumBlocks(m.NarSize())), news: make(chan struct{})}
}

// Mapping returns the mapping as the sharing policy has checked it, or false if other peers may not get the blocks.
func (c *content) Mapping() (trust.Mapping, bool) { return c.checked, c.PassesOn() }

// PassesOn reports whether other peers may get the blocks that are here.
func (c *content) PassesOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared && !c.closed
}

// Have returns which blocks are here.
func (c *content) Have() wire.Bitmap {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.here)
}

// Await waits until a block is here, for at most [PartialWait].
func (c *content) Await(ctx context.Context, i int) {
	ctx, cancel := context.WithTimeout(ctx, PartialWait)
	defer cancel()
	for {
		c.mu.Lock()
		over := c.closed || i >= store.NumBlocks(c.narSize) || c.here.Has(i)
		news := c.news
		c.mu.Unlock()
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

// ReadBlock reads a block that is here. The error is [wire.ErrLater] if it is not.
func (c *content) ReadBlock(i int, buf []byte) (int, error) {
	c.mu.Lock()
	here := c.here.Has(i)
	c.mu.Unlock()
	if !here {
		return 0, wire.ErrLater
	}
	return c.draft.ReadAt(buf[:store.BlockLen(c.narSize, i)], int64(i)*store.BlockSize)
}

// write writes a block, and wakes the goroutines that wait for it.
func (c *content) write(i int, data []byte) error {
	if _, err := c.draft.WriteAt(data, int64(i)*store.BlockSize); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.here.Set(i)
		close(c.news)
		c.news = make(chan struct{})
	}
	return nil
}

// reuse records that blocks are in the draft from the beginning.
func (c *content) reuse(blocks []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range blocks {
		c.here.Set(i)
	}
}

// close ends the passing on of blocks, once all are here and the NAR is wrong.
func (c *content) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		clear(c.here)
		close(c.news)
	}
}

// digest hashes a block of a NAR: of the draft, or of the right one.
func (c *content) digest(nar io.ReaderAt, i int) (store.Hash, error) {
	buf := wire.NewBlock()
	defer buf.Free()
	b := buf.Room()[:store.BlockLen(c.narSize, i)]
	_, err := nar.ReadAt(b, int64(i)*store.BlockSize)
	return sha256.Sum256(b), err
}
