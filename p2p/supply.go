package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

const (
	// fromUpstream stands among peers for the upstream of a fetch.
	fromUpstream peer.ID = "upstream"
	// supplyTries is how often each upstream is asked for one NAR: again only if what came was not the NAR, because then
	// its claim may be one from before.
	supplyTries = 2
)

// errDisbelieved says that an upstream has a path, and that no trusted key has signed its narinfo.
var errDisbelieved = errors.New("not believed")

// lookupUpstream asks our own upstreams in order about a hash part, and returns the first claim that can be believed. The
// error wraps [store.ErrNotFound] only if all have been asked and have none; one that is down is not waited for.
func (n *Node) lookupUpstream(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	var failed, disbelieved error
	for _, u := range n.cfg.Upstreams {
		if err := u.Ready(); err != nil { // also if it has said so before: what it has could not be fetched
			failed = errors.Join(failed, err)
			continue
		}
		m, err := n.askUpstream(ctx, u, hp)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			failed = errors.Join(failed, err)
		} else if errors.Is(err, errDisbelieved) || errors.Is(err, store.ErrUnreadable) {
			disbelieved = err
		}
	}
	if failed != nil {
		return trust.Mapping{}, failed
	}
	if disbelieved != nil {
		return trust.Mapping{}, disbelieved
	}
	return trust.Mapping{}, fmt.Errorf("%s: no upstream has it: %w", hp, store.ErrNotFound)
}

// AskUpstream returns what an upstream says of a hash part, if it can be believed, and sees to it that it is kept.
func (n *Node) askUpstream(ctx context.Context, u *store.Upstream, hp store.HashPart) (trust.Mapping, error) {
	info, err := u.Info(ctx, hp)
	if err != nil {
		return trust.Mapping{}, err
	}
	m, err := n.cfg.Trusted.Check(info)
	if err != nil {
		return trust.Mapping{}, fmt.Errorf("upstream %s: %w: %w: %w", u, store.ErrNotFound, errDisbelieved, err)
	}
	if err := u.Keep(info); err != nil {
		n.log.Debug("a mapping is not kept", zap.Stringer("path", m.Path()), zap.Error(err))
	}
	return m, nil
}

// startSupply lets the NAR come from an upstream: through the elected neighbour, or from ours. It returns false if
// there is none, while a holder's manifest is tested, and while enough relays may suffice.
func (f *fetch) startSupply(ctx context.Context, c *crew, relays int) bool {
	ups := f.upstreams
	if f.blame.comparing() || f.supplies >= supplyTries*len(ups) {
		return false
	}
	if f.hasDoubted() && !f.again { // a neighbour that has fetched it by now vouches for it
		f.again = true
		if !f.secret {
			f.readmit(f.swarm.Holders(ctx, f.m, true))
		}
		return true
	}
	who, others := f.electHelper()
	if others == 0 && relays > 0 && !f.urged.Load() && !f.quiet(helpPatience) {
		return false
	}
	if who != nil {
		c.start(func() { f.rely(ctx, who) })
		return true
	}
	f.own.Store(true)
	u := ups[f.supplies%len(ups)]
	f.supplies++
	c.start(func() {
		defer f.own.Store(false)
		if err := f.stream(ctx, u); err != nil && ctx.Err() == nil {
			f.log.Info("upstream did not deliver", zap.Stringer("url", u), zap.Stringer("path", f.m.Path()), zap.Error(err))
			if errors.Is(err, store.ErrCorrupt) {
				u.Wrong(f.m.Info())
			} else {
				u.Forget(f.m.Path().HashPart())
			}
		}
	})
	return true
}

// stream takes the NAR from an upstream, block by block, so that it can be passed on as it comes.
func (f *fetch) stream(ctx context.Context, u *store.Upstream) error {
	r, err := u.Stream(ctx, f.m.Info())
	if err != nil {
		return err
	}
	defer r.Close()
	buf := wire.BlockBuffers.Get().(*[]byte)
	defer wire.BlockBuffers.Put(buf)
	f.pace.begin()
	defer f.pace.end()
	began, last, before := time.Now(), len(f.picker.blocks)-1, f.missing()
	for i := range f.picker.blocks {
		block := (*buf)[:store.BlockLen(f.m.NarSize(), i)]
		if _, err := io.ReadFull(fed{f.pace, r}, block); err != nil {
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
// since it began, nor at the pace at which it has come from everybody since, when so many blocks were missing. Nix had
// better ask the upstream itself, and soon: it can use what comes before all of it is verified.
func (f *fetch) hopeless(ctx context.Context, began time.Time, block, before int) error {
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
func (f *fetch) giveUp(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.end()
}

// blameSender records that blocks are wrong for which a peer or an upstream vouched.
func (f *fetch) blameSender(id peer.ID, cause error) {
	if id != fromUpstream {
		f.wrong(id, cause)
		return
	}
	f.log.Warn("upstream sent what it has not signed", zap.Stringer("path", f.m.Path()), zap.Error(cause))
	ups := f.upstreams
	ups[(f.supplies+len(ups)-1)%len(ups)].Wrong(f.m.Info()) // the one that was asked last
}

// origin returns the origin of a block by its sender, and the sender's name. Once a neighbour downloads the NAR for us,
// too, all relayed blocks come from that download, because before it no neighbour had them. The caller holds mu.
func (f *fetch) origin(from peer.ID) (store.Origin, string) {
	if from == fromUpstream {
		return store.FromInternet, "upstream"
	}
	if f.helped || f.helpers[from] {
		return store.FromOthers, from.String()
	}
	return store.FromNeighbours, from.String()
}

// fed counts what an upstream sends.
type fed struct {
	pace *tempo
	r    io.Reader
}

func (r fed) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.pace.add(n)
	return n, err
}
