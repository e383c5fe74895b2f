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

const (
	// fromUpstream stands among peers for the upstream of a fetch.
	fromUpstream peer.ID = "upstream"
	// supplyTries is how often each upstream is asked for one NAR: again only if what came was not the NAR, because then
	// its claim may be one from before.
	supplyTries = 2
)

// An uplink is the part of this node's own upstreams in a fetch. The goroutine that calls untilRight owns what is not atomic.
type uplink struct {
	tries int         // how often an upstream was asked
	again bool        // after the NAR was wrong, holders were looked for
	busy  atomic.Bool // an upstream is being asked
	urged atomic.Bool // neighbours wait for this node to ask its upstream
}

// urge records that neighbours wait for this node to ask its upstream.
func (f *Session) Urge() { f.uplink.urged.Store(true) }

// startSupply lets the NAR come from an upstream: through the assigned neighbour, or from ours. It returns false if
// there is none, while a holder's manifest is tested, and while enough partial peers may suffice.
func (f *Session) startSupply(ctx context.Context, c *crew, relays int) bool {
	ups := f.Upstreams
	if f.blame.comparing() || f.uplink.tries >= supplyTries*len(ups) {
		return false
	}
	if f.hasDoubted() && !f.uplink.again { // a neighbour that has fetched it by now vouches for it
		f.uplink.again = true
		if !f.secret {
			f.readmit(f.Swarm.Holders(ctx, f.Wanted, true))
		}
		return true
	}
	proxy, others := f.electProxy()
	if others == 0 && relays > 0 && !f.uplink.urged.Load() && !f.quiet(ProxyPatience) {
		return false
	}
	if proxy != nil {
		c.start(func() { f.rely(ctx, proxy) })
		return true
	}
	f.uplink.busy.Store(true)
	u := ups[f.uplink.tries%len(ups)]
	f.uplink.tries++
	c.start(func() {
		defer f.uplink.busy.Store(false)
		if err := f.stream(ctx, u); err != nil && ctx.Err() == nil {
			f.Log.Info("upstream did not deliver", zap.Stringer("url", u), zap.Stringer("path", f.Wanted.Path()), zap.Error(err))
			if errors.Is(err, store.ErrCorrupt) {
				u.Wrong(f.Wanted.Info())
			} else {
				u.Forget(f.Wanted.Path().HashPart())
			}
		}
	})
	return true
}

// stream takes the NAR from an upstream, block by block, so that it can be passed on as it comes.
func (f *Session) stream(ctx context.Context, u *upstream.Cache) error {
	r, err := u.Stream(ctx, f.Wanted.Info())
	if err != nil {
		return err
	}
	defer r.Close()
	buf := wire.BlockBuffers.Get().(*[]byte)
	defer wire.BlockBuffers.Put(buf)
	f.Throughput.begin()
	defer f.Throughput.end()
	began, last, before := time.Now(), len(f.picker.blocks)-1, f.missing()
	for i := range f.picker.blocks {
		block := (*buf)[:store.BlockLen(f.Wanted.NarSize(), i)]
		if _, err := io.ReadFull(meteredReader{f.Throughput, r}, block); err != nil {
			return err
		}
		if i == last { // the rest of the file, so that the connection can be used again
			if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
				return fmt.Errorf("the end of the NAR: %w", err)
			}
		}
		f.write(i, block, fromUpstream, false)
		if err := f.hopeless(ctx, began, i, before); err != nil {
			f.giveUp(err)
			return nil
		}
	}
	return nil
}

// hopeless fails if the NAR will not be here before ctx ends, neither from an upstream that has sent all up to a block
// since it began, nor at the rate at which it has come from all sources since, when so many blocks were missing. Nix had
// better ask the upstream itself, and soon: it can use what comes before all of it is verified.
func (f *Session) hopeless(ctx context.Context, began time.Time, block, before int) error {
	took := time.Since(began)
	deadline, ok := ctx.Deadline()
	if !ok || took < judgedAfter {
		return nil
	}
	left := f.missing()
	rest := min(remaining(took, block+1, left), remaining(took, before-left, left))
	if time.Now().Add(rest).After(deadline) {
		return fmt.Errorf("%w: at this pace it takes %s more, and Nix waits for %s", store.ErrNotFound, rest.Round(time.Second),
			time.Until(deadline).Round(time.Second))
	}
	return nil
}

// giveUp ends the fetch.
func (f *Session) giveUp(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.run.err = err
	f.end()
}

// blameSender records that blocks are wrong for which a peer or an upstream vouched.
func (f *Session) blameSender(id peer.ID, cause error) {
	if id != fromUpstream {
		f.wrong(id, cause)
		return
	}
	f.Log.Warn("upstream sent what it has not signed", zap.Stringer("path", f.Wanted.Path()), zap.Error(cause))
	ups := f.Upstreams
	ups[(f.uplink.tries+len(ups)-1)%len(ups)].Wrong(f.Wanted.Info()) // the one that was asked last
}

// origin returns the origin of a block by its sender, and the sender's name. Once a neighbour downloads the NAR for us,
// too, all relayed blocks come from that download, because before it no neighbour had them. The caller holds mu.
func (f *Session) origin(from peer.ID) (store.Origin, string) {
	if from == fromUpstream {
		return store.FromInternet, "upstream"
	}
	if f.proxies.delivered || f.proxies.asked[from] {
		return store.FromOthers, from.String()
	}
	return store.FromNeighbours, from.String()
}
