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

// rebuildTick is the interval at which a rebuild is compared with the neighbours, and in which it must make progress.
// It also bounds the time in which the store must name the other versions of a path.
const rebuildTick = time.Second

// errStalled means that no block was read within rebuildTick.
var errStalled = errors.New("the disk has not delivered a block of the other version for a second")

// errOutpaced means that other sources were expected to be faster.
var errOutpaced = errors.New("neighbours or an upstream send faster than this machine reads and rewrites")

// rebuild makes the NAR from another version of its path on this machine: after a mass rebuild most paths differ from
// their earlier versions only in the store paths that they contain. No neighbour is asked. It returns the NAR if its
// hash is right. Otherwise blocks at the beginning of the draft may be written: this session uses them, and they are
// neither passed on nor kept. The error wraps [store.ErrCorrupt] if the whole draft was written and its hash is wrong;
// then the caller calls [Session.repair].
func (s *Session) rebuild(ctx context.Context) (*spool.NAR, error) {
	if s.Rebuilds == nil {
		return nil, nil
	}
	wanted := s.Wanted.Info()
	if s.outpaced() {
		s.Rebuilds.Record(wanted, rebase.Outcome{Err: errOutpaced})
		return nil, nil
	}
	if end, ok := ctx.Deadline(); ok { // three quarters are left for the fetch
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/4)
		defer cancel()
	}
	candidates := s.candidates(ctx, wanted)
	if len(candidates) > 0 {
		s.draft.Forgo()
	}
	var wrong error
	for i, c := range candidates {
		start := time.Now()
		n, err := s.copyOld(ctx, c)
		if err != nil {
			s.Log.Debug("a path could not be rebuilt", zap.Stringer("path", wanted.Path), zap.Stringer("from", c.Old.Path), zap.Error(err))
			if wrong == nil {
				s.Rebuilds.Record(wanted, rebase.Outcome{From: c.Old.Path, Err: err})
				s.plan.reuse(blocksUntil(n, wanted.NarSize))
			}
			return nil, wrong
		}
		sp, err := s.draft.Commit(s.Wanted.CheckNAR)
		if sp != nil {
			s.Received(store.FromRebuild, s.Wanted, "", int(wanted.NarSize))
			s.Rebuilds.Record(wanted, rebase.Outcome{From: c.Old.Path})
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
		wrong, s.rebuilt = err, &candidates[i]
	}
	if wrong != nil {
		s.Rebuilds.Record(wanted, rebase.Outcome{From: s.rebuilt.Old.Path, Err: rebase.ErrDiffers})
	}
	return nil, wrong
}

// repair marks blocks of a wrong rebuild as missing: those that differ from a holder's manifest, or all if no holder
// sends one. No peer is blamed for them. The old path is reported as suspect if few blocks differ, or if that is
// unknown.
func (s *Session) repair(ctx context.Context) error {
	again := blocksUntil(s.Wanted.NarSize(), s.Wanted.NarSize())
	suspect, holders := true, s.plan.holders()
	for _, nb := range holders[:min(len(holders), 2)] {
		manifest, err := nb.AskManifest(ctx, s.Wanted)
		if err != nil {
			s.failed(ctx, nb, err)
			continue
		}
		other, err := differing(manifest, func(i int) (store.Hash, error) { return s.digest(s.draft, i) })
		if err != nil {
			return err
		}
		suspect = len(other) <= 1+len(again)/16 // a damaged disk has few wrong blocks
		again = other
		break
	}
	if suspect {
		s.rebuilt.Suspect()
	}
	s.plan.again(again)
	return nil
}

// candidates returns the other versions of a path; none if the store does not answer within [rebuildTick].
func (s *Session) candidates(ctx context.Context, wanted store.Info) []rebase.Candidate {
	ctx, cancel := context.WithTimeout(ctx, rebuildTick)
	defer cancel()
	found := make(chan []rebase.Candidate, 1)
	running := s.Rebuilds.Go(func() {
		list, err := s.Rebuilds.Candidates(ctx, wanted)
		if err != nil {
			s.Log.Debug("not rebuilt", zap.Stringer("path", wanted.Path), zap.Error(err))
			if !errors.Is(err, rebase.ErrDiffers) { // that is recorded with its path
				s.Rebuilds.Record(wanted, rebase.Outcome{Err: err})
			}
		}
		found <- list
	})
	if !running {
		return nil
	}
	select {
	case list := <-found:
		return list
	case <-ctx.Done():
		return nil
	}
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

// outpaced reports whether the NAR would come faster than this machine rebuilds, as far as both were measured.
func (s *Session) outpaced() bool {
	rate := s.Rebuilds.Rate()
	return rate > 0 && s.rateOfOthers() > rate
}

// rateOfOthers returns the bytes per second at which the neighbours that are known to have the NAR send, all together,
// or an upstream if that is more.
func (s *Session) rateOfOthers() (rate int64) {
	if !s.secret {
		for _, h := range s.Swarm.Known(s.Wanted) {
			rate += h.Neighbour.Rate(time.Now())
		}
	}
	if len(s.Upstreams) > 0 {
		rate = max(rate, s.Throughput.Rate())
	}
	return rate
}

// copyOld writes the NAR of another version, with the new store paths, into the draft, and returns the number of bytes
// written. It stops if no block is read within [rebuildTick], or if neighbours or upstreams are faster.
func (s *Session) copyOld(ctx context.Context, c rebase.Candidate) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &blockWriter{draft: s.draft, block: make([]byte, 0, min(c.Old.NarSize, store.BlockSize))}
	done := make(chan error, 1)
	running := s.Rebuilds.Go(func() {
		err := c.WriteTo(ctx, w)
		if err == nil {
			err = w.flush()
		}
		done <- err
	})
	if !running {
		return 0, store.ErrSlow
	}
	ticker := time.NewTicker(rebuildTick)
	defer ticker.Stop()
	start, before := time.Now(), int64(0)
	for {
		select {
		case err := <-done:
			return w.stop(), err
		case <-ticker.C:
			n := w.progress()
			if n == before {
				return w.stop(), errStalled
			}
			if rate := float64(n) / time.Since(start).Seconds(); rate < float64(s.rateOfOthers()) {
				return w.stop(), errOutpaced
			}
			before = n
		case <-ctx.Done():
			return w.stop(), ctx.Err()
		}
	}
}

// A blockWriter writes a NAR into a draft from its beginning, block by block, until it is stopped. Write and flush must
// be called by one goroutine; the other methods may be called concurrently.
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
