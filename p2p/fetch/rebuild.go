package fetch

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/rebase"
	"narbor/store/spool"
)

// rebuildTick is the interval at which a rebuild is compared with the neighbours, and in which it must make progress. It also
// bounds the time in which the store must name the other versions of a path.
const rebuildTick = time.Second

// rebuild makes the NAR out of another version of its path on this machine: most paths of a mass rebuild differ from the
// version before in the store paths that they contain. No neighbour learns of it. It returns the NAR if that succeeds; else the
// beginning of the draft may have been written, which then counts as left by an earlier fetch. The error wraps
// [store.ErrCorrupt] if the whole draft was written, and is wrong.
func (s *Session) rebuild(ctx context.Context) (*spool.NAR, error) {
	if s.Rebuilds == nil || s.outpaced() {
		return nil, nil
	}
	wanted := s.Wanted.Info()
	candidates := s.candidates(ctx, wanted)
	var wrong error
	for _, c := range candidates {
		start := time.Now()
		n, err := s.copyOld(ctx, c)
		if err != nil {
			s.Log.Debug("a path could not be rebuilt", zap.Stringer("path", wanted.Path), zap.Stringer("from", c.Old.Path), zap.Error(err))
			if wrong == nil {
				s.plan.reuse(blocksUntil(n, wanted.NarSize))
			}
			return nil, wrong
		}
		sp, err := s.draft.Commit(s.Wanted.CheckNAR)
		if sp != nil {
			s.Received(store.FromRebuild, s.Wanted, "", int(wanted.NarSize))
			s.Log.Debug("rebuilt", zap.Stringer("path", wanted.Path), zap.Stringer("from", c.Old.Path),
				zap.Int64("size", wanted.NarSize), zap.Duration("dur", time.Since(start)))
			return sp, nil
		}
		if !errors.Is(err, store.ErrCorrupt) {
			return nil, err
		}
		if wrong == nil {
			s.plan.reuse(blocksUntil(wanted.NarSize, wanted.NarSize))
		}
		wrong = err
	}
	if wrong != nil {
		s.Rebuilds.Differs(wanted, candidates)
	}
	return nil, wrong
}

// candidates returns the other versions of a path, unless the store takes longer than a moment to say.
func (s *Session) candidates(ctx context.Context, wanted store.Info) []rebase.Candidate {
	ctx, cancel := context.WithTimeout(ctx, rebuildTick)
	defer cancel()
	list, _ := s.Rebuilds.Candidates(ctx, wanted)
	return list
}

// blocksUntil returns the numbers of the blocks that end within the first n bytes of a NAR.
func blocksUntil(n, size int64) (blocks []int) {
	for i := range store.NumBlocks(size) {
		if int64(i)*store.BlockSize+int64(store.BlockLen(size, i)) <= n {
			blocks = append(blocks, i)
		}
	}
	return blocks
}

// outpaced reports whether the neighbours that are known to have the NAR send faster than this machine rebuilds, as far as both
// were measured.
func (s *Session) outpaced() bool {
	rate := s.Rebuilds.Rate()
	return rate > 0 && s.rateOfHolders() > rate
}

// rateOfHolders returns the bytes per second at which the neighbours that are known to have the NAR send, all together.
func (s *Session) rateOfHolders() (rate int64) {
	if s.secret {
		return 0
	}
	for _, h := range s.Swarm.Known(s.Wanted) {
		rate += h.Neighbour.Rate(time.Now())
	}
	return rate
}

// copyOld writes the NAR of another version, with the new store paths, into the draft, and returns the number of bytes that were
// written. It gives up if the disk stops, or is slower than the neighbours.
func (s *Session) copyOld(ctx context.Context, c rebase.Candidate) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &blockWriter{draft: s.draft, block: make([]byte, 0, store.BlockSize)}
	done := make(chan error, 1)
	go func() { // a read of a file may hang as long as its disk does
		err := c.WriteTo(ctx, w)
		if err == nil {
			err = w.flush()
		}
		done <- err
	}()
	ticker := time.NewTicker(rebuildTick)
	defer ticker.Stop()
	start, before := time.Now(), int64(0)
	for {
		select {
		case err := <-done:
			return w.stop(), err
		case <-ticker.C:
			n := w.progress()
			if rate := float64(n) / time.Since(start).Seconds(); n == before || rate < float64(s.rateOfHolders()) {
				return w.stop(), store.ErrSlow
			}
			before = n
		case <-ctx.Done():
			return w.stop(), ctx.Err()
		}
	}
}

// A blockWriter writes a NAR into a draft from its beginning, block by block, until it is stopped. Write and flush are called by
// one goroutine, the other methods by any.
type blockWriter struct {
	draft *spool.Draft
	block []byte // the beginning of the next block

	mu      sync.Mutex // guards the rest; held while the draft is written
	written int64
	stopped bool
}

func (w *blockWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), store.BlockSize-len(w.block))
		w.block = append(w.block, rest[:n]...)
		rest = rest[n:]
		if len(w.block) == store.BlockSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// flush writes the block as far as it is there.
func (w *blockWriter) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return os.ErrClosed
	}
	n, err := w.draft.WriteAt(w.block, w.written)
	w.written += int64(n)
	w.block = w.block[:0]
	return err
}

func (w *blockWriter) progress() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// stop ends the writing, and returns the number of bytes that are in the draft.
func (w *blockWriter) stop() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	return w.written
}
