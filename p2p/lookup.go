package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/store"
	"narbor/trust"
)

const (
	// infoTimeout bounds what one unresponsive neighbour can add to a build. Neighbours share our network: one that
	// needs longer is worse than asking the internet. It leaves a part of narserve's 300 ms to the own store.
	infoTimeout = 250 * time.Millisecond
	// holdersFresh is how long it is relied on who has a path. In a crowd that wants the same closure every moment
	// somebody has it who did not when Nix asked for the narinfo; asking costs a fraction of a millisecond.
	holdersFresh = 2 * time.Second
	// refreshTimeout bounds what asking again may delay a NAR of which a holder is known.
	refreshTimeout = 20 * time.Millisecond
	// maxFindings bounds the memory of who has what: some closures' worth.
	maxFindings = 16 << 10
)

// A finding is what the neighbours said about a hash part: the claim that was believed, and who else made it.
type finding struct {
	mapping trust.Mapping
	found   time.Time

	mu      sync.Mutex // guards holders
	holders []peer.ID
}

func (f *finding) add(id peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.holders, id) {
		f.holders = append(f.holders, id)
	}
}

// Lookup asks all neighbours about a hash part, and returns the first claim that can be believed. The error wraps
// [store.ErrNotFound] if there is none within 250 ms, or within ctx.
func (n *Node) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	f, err := n.lookup(ctx, hp, nil)
	if err != nil {
		return trust.Mapping{}, err
	}
	return f.mapping, nil
}

// is says whether a mapping is of the NAR with that hash and size. The size counts because no signature need cover
// it: a content address settles the hash alone, and who believed a wrong size would take the right blocks for lies.
func is(m trust.Mapping, hash store.Hash, size int64) bool {
	return m.NarHash() == hash && m.NarSize() == size
}

// lookup asks all neighbours, and returns what the first says that can be believed. If a mapping is wanted, its holders
// alone count, and it waits for everybody's answer, so that the finding has all of them; for the answers of those who
// are late only as long as there is no holder.
func (n *Node) lookup(ctx context.Context, hp store.HashPart, want *trust.Mapping) (*finding, error) {
	neighbours := n.neighbours()
	if len(neighbours) == 0 {
		return nil, fmt.Errorf("%s: no neighbours: %w", hp, store.ErrNotFound)
	}
	replies := make(chan reply, len(neighbours))
	owed := map[*neighbour]bool{} // who has been asked, and whether to wait for it
	for _, nb := range neighbours {
		select {
		case nb.asks <- &ask{hp, replies}:
			owed[nb] = !nb.isLate()
		default: // it has left hundreds of questions unanswered
		}
	}
	found := make(chan *finding, 1)
	if !n.begin() {
		return nil, fmt.Errorf("%s: narbor is stopping: %w", hp, store.ErrNotFound)
	}
	go func() {
		defer n.running.Done()
		// Holders are collected beyond the first answer, and so beyond the caller's interest.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), infoTimeout)
		defer cancel()
		defer close(found)
		n.collect(ctx, hp, want, replies, owed, func(f *finding, last bool) {
			if f != nil && (last || want == nil) && len(found) == 0 {
				found <- f
			}
		})
	}()
	select {
	case f := <-found:
		if f != nil {
			return f, nil
		}
	case <-ctx.Done():
	}
	return nil, fmt.Errorf("%s: none of %d neighbours has it: %w", hp, len(neighbours), store.ErrNotFound)
}

// collect takes in answers until nobody owes one or ctx ends. It tells report of each, and at last once more.
func (n *Node) collect(ctx context.Context, hp store.HashPart, want *trust.Mapping, replies <-chan reply, owed map[*neighbour]bool, report func(f *finding, last bool)) {
	var f *finding
	wait := func() bool {
		for _, prompt := range owed {
			if prompt || f == nil && want != nil {
				return true
			}
		}
		return false
	}
	for wait() {
		select {
		case r := <-replies:
			delete(owed, r.from)
			f = n.take(f, hp, want, r)
			report(f, false)
		case <-ctx.Done():
			for nb := range owed {
				nb.late.CompareAndSwap(0, time.Now().UnixNano())
			}
			clear(owed)
		}
	}
	report(f, true)
}

// take judges one neighbour's answer, and returns the finding with what it adds.
func (n *Node) take(f *finding, hp store.HashPart, want *trust.Mapping, r reply) *finding {
	if r.err != nil {
		n.log.Debug("neighbour did not answer", zap.Stringer("peer", r.from.id), zap.Error(r.err))
	}
	if r.text == "" {
		return f
	}
	info, err := store.ParseInfo(r.text)
	if err == nil && info.Path.HashPart() != hp {
		err = fmt.Errorf("asked about %s, got %s", hp, info.Path)
	}
	if err != nil {
		n.strike(r.from.id, err.Error())
		return f
	}
	if f == nil && want != nil && is(*want, info.NarHash, info.NarSize) {
		f = &finding{mapping: *want, found: time.Now()}
		n.findings.Add(hp, f)
	}
	if f == nil && want == nil {
		m, err := n.cfg.Trusted.Check(info)
		if err != nil {
			if errors.Is(err, trust.ErrForged) {
				n.strike(r.from.id, err.Error())
			}
			n.log.Debug("claim not believed", zap.Stringer("peer", r.from.id), zap.Error(err))
			return nil // its keys may be honest ones that this machine does not trust
		}
		f = &finding{mapping: m, found: time.Now()}
		n.findings.Add(hp, f)
	}
	// Whoever claims to have this very NAR is worth asking for it: its bytes will be judged, not its claim.
	if f != nil && is(f.mapping, info.NarHash, info.NarSize) {
		r.from.tally.claims.Add(1)
		f.add(r.from.id)
	}
	return f
}

// holders returns the neighbours who said that they have the NAR. It asks everybody if that was too long ago, or if
// again is set.
func (n *Node) holders(ctx context.Context, m trust.Mapping, again bool) []*neighbour {
	hp := m.Path().HashPart()
	f, ok := n.findings.Get(hp)
	if !ok || again || !is(f.mapping, m.NarHash(), m.NarSize()) || len(n.connected(f)) == 0 {
		now, err := n.lookup(ctx, hp, &m)
		if err == nil {
			return n.connected(now)
		}
		return n.known(m) // a holder that is busy answers late
	}
	if time.Since(f.found) > holdersFresh {
		ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
		defer cancel()
		if now, err := n.lookup(ctx, hp, &m); err == nil {
			f = now
		}
	}
	return n.connected(f)
}

// known returns the holders that are known without asking anybody.
func (n *Node) known(m trust.Mapping) []*neighbour {
	f, ok := n.findings.Peek(m.Path().HashPart())
	if !ok || !is(f.mapping, m.NarHash(), m.NarSize()) {
		return nil
	}
	return n.connected(f)
}

// askAround asks everybody who has a NAR, for known to find, and does not wait for the answers.
func (n *Node) askAround(m trust.Mapping) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits; the answers are collected all the same
	n.lookup(ctx, m.Path().HashPart(), &m)
}

// connected returns the holders of a finding who are still neighbours.
func (n *Node) connected(f *finding) []*neighbour {
	f.mu.Lock()
	ids := slices.Clone(f.holders)
	f.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*neighbour
	for _, id := range ids {
		if nb := n.peers[id]; nb != nil {
			out = append(out, nb)
		}
	}
	return out
}
