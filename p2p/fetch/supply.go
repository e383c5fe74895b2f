package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/upstream"
)

// supplyTries is how often each upstream is asked for one NAR: again only if it has sent something else, because the
// claim may be outdated. It is also the number of wrong NARs from neighbours, complete before an upstream had sent the
// NAR, after which upstreams alone are asked.
const supplyTries = 2

// A supply gets the NAR from an upstream, through a proxy or from this node's own. The goroutine that calls Fetch owns
// the fields that are not atomic.
type supply struct {
	*download
	last    *upstream.Cache // the one that was asked last
	tries   atomic.Int32    // how often one has sent the NAR, or failed to
	cuts    atomic.Int32    // how often the run ended before one had sent the NAR
	doubted bool            // the NAR was here, and wrong
	again   bool            // after that, holders were looked for
	busy    atomic.Bool     // an upstream is being asked
	urged   atomic.Bool     // neighbours wait for this node to ask its upstream
}

// askUpstream takes the NAR from an upstream, and notes how that ended.
func (s *supply) askUpstream(ctx context.Context, u *upstream.Cache) {
	defer s.busy.Store(false)
	err := s.stream(ctx, u)
	if err != nil && ctx.Err() != nil {
		s.cuts.Add(1)
		return
	}
	s.tries.Add(1)
	if err == nil {
		return
	}
	s.Log.Info("upstream did not deliver", zap.Stringer("url", u), zap.Stringer("path", s.Wanted.Path()), zap.Error(err))
	if errors.Is(err, store.ErrCorrupt) {
		u.Wrong(s.Wanted.Info())
	} else {
		u.Forget(s.Wanted.Path().HashPart())
	}
}

// upstreamsOnly reports whether the rest of the NAR is left to the upstreams: runs ended with a wrong NAR before one
// had sent it.
func (s *supply) upstreamsOnly() bool {
	return s.cuts.Load() >= supplyTries && int(s.tries.Load()) < supplyTries*len(s.Upstreams) && !s.blame.comparing()
}

// stream takes the NAR from an upstream, block by block, so that it can be passed on as it comes.
func (s *supply) stream(ctx context.Context, u *upstream.Cache) error {
	r, err := u.Stream(ctx, s.Wanted.Info())
	if err != nil {
		return err
	}
	defer r.Close()
	buf := wire.NewBlock()
	defer buf.Free()
	s.Throughput.begin()
	defer s.Throughput.end()
	began, blocks, before := time.Now(), store.NumBlocks(s.Wanted.NarSize()), s.plan.missing()
	for i := range blocks {
		block := buf.Room()[:store.BlockLen(s.Wanted.NarSize(), i)]
		if _, err := io.ReadFull(meteredReader{s.Throughput, r}, block); err != nil {
			return err
		}
		if i == blocks-1 { // the rest of the file, so that the connection can be used again
			if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
				return fmt.Errorf("the end of the NAR: %w", err)
			}
		}
		s.take(i, block, fromUpstream, false)
		if err := s.hopeless(ctx, began, i, before); err != nil {
			return s.giveUp(err)
		}
	}
	return nil
}

// giveUp ends the fetch, because no upstream sends the NAR in time. If holders were left out, it is their turn instead,
// and the upstreams are not asked again.
func (s *supply) giveUp(slow error) error {
	if !s.upstreamsOnly() {
		s.plan.fail(slow)
		return nil
	}
	s.tries.Store(int32(supplyTries * len(s.Upstreams)))
	return slow
}

// hopeless returns an error if the NAR will not be here before ctx ends: neither at the pace of an upstream, which has
// sent all up to a block since it began, nor at that of all sources since, when so many blocks were missing before.
// Then Nix had better ask the upstream itself, and soon: it uses bytes before all of them are verified.
func (s *supply) hopeless(ctx context.Context, began time.Time, block, before int) error {
	took := time.Since(began)
	deadline, ok := ctx.Deadline()
	if !ok || took < judgedAfter {
		return nil
	}
	left := s.plan.missing()
	rest := min(remaining(took, block+1, left), remaining(took, before-left, left))
	if time.Now().Add(rest).After(deadline) {
		return fmt.Errorf("%w: at this pace it takes %s more, and may take %s", store.ErrNotFound, rest.Round(time.Second),
			time.Until(deadline).Round(time.Second))
	}
	return nil
}

// blameSender records that blocks are wrong for which a peer or an upstream vouched.
func (s *supply) blameSender(id peer.ID, cause error) {
	if id == fromDisk {
		s.Log.Info("blocks from this machine's disk were wrong", zap.Stringer("path", s.Wanted.Path()), zap.Error(cause))
		return
	}
	if id != fromUpstream {
		s.wrong(id, cause)
		return
	}
	s.Log.Warn("upstream sent what it has not signed", zap.Stringer("path", s.Wanted.Path()), zap.Error(cause))
	s.last.Wrong(s.Wanted.Info())
}
