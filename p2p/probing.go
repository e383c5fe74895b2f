package p2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"narbor/store"
)

// Neighbours are answered exact questions only, but whoever has a dictionary of store paths, say of all versions of a
// program with a known hole, can ask for each. So a question about what is not here costs a miss. A peer that has
// spent its misses is told "not here" to everything, before anything is looked up: neither the answer nor the time that
// it takes then depends on what is here. Questions about what is here cost nothing.

// A bucket has size tokens at first, and gets missesPerMinute times shares back, up to size again.
type bucket struct {
	size, shares float64

	mu   sync.Mutex // guards the rest
	left float64
	at   time.Time // when that was left; zero: never, so it is full
}

func newBucket(size, shares int) *bucket {
	return &bucket{size: float64(size * shares), shares: float64(shares)}
}

// take takes a token, unless that would leave less than reserve.
func (b *bucket) take(reserve int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drip()
	if b.left-1 < float64(reserve)*b.shares {
		return false
	}
	b.left--
	return true
}

// spend takes a token. If there is none it says so, once: the bucket is full again then.
func (b *bucket) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drip()
	if b.left < 1 {
		b.left = b.size
		return false
	}
	b.left--
	return true
}

// drip adds what has come back. The caller holds mu.
func (b *bucket) drip() {
	now := time.Now()
	if b.at.IsZero() {
		b.left = b.size
	} else {
		b.left = min(b.size, b.left+now.Sub(b.at).Minutes()*missesPerMinute*b.shares)
	}
	b.at = now
}

func (b *bucket) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left++
}

// A ration is what a peer has left, or all together who ask from an address.
type ration struct {
	misses *bucket // questions about what is not here
	helped *bucket // questions for which an upstream is asked, whatever it says
}

func newRation(shares int) *ration {
	return &ration{newBucket(missBurst+narMisses, shares), newBucket(helpBurst, shares)}
}

// A probing is what a peer has asked about that is not here.
type probing struct {
	*ration
	patience *bucket
	silent   atomic.Int64           // questions answered without looking
	address  atomic.Pointer[ration] // of where it asked from last, which it shares; nil before it asked
}

func newProbing() *probing {
	return &probing{ration: newRation(1), patience: newBucket(missPatience, 1)}
}

// asks notes from where a peer asks.
func (n *Node) asks(t *tally, conn network.Conn) {
	a, ok := ipOf(conn.RemoteMultiaddr())
	if !ok {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	b, ok := n.rations.Get(a)
	if !ok {
		b = newRation(missShares)
		n.rations.Add(a, b)
	}
	t.probing.address.Store(b)
}

// mayLook says whether something may be looked up for a peer, which costs a miss until found takes that back. Of its
// misses reserve must be left.
func (n *Node) mayLook(t *tally, reserve int) bool {
	p := t.probing
	if p.misses.take(reserve) {
		there := p.address.Load()
		if there == nil || there.misses.take(reserve) {
			return true
		}
		p.misses.giveBack()
	}
	if p.silent.Add(1) == 1 {
		n.log.Info("neighbour asks for much that is not here, so some of it is answered without looking", zap.Stringer("peer", t.id))
	}
	if !p.patience.spend() {
		n.strike(t.id, fmt.Errorf("asked about far more than %d paths that are not here: %w", missPatience, errProbing))
	}
	return false
}

// found says that what was looked up is here.
func (p *probing) found() {
	p.misses.giveBack()
	if there := p.address.Load(); there != nil {
		there.misses.giveBack()
	}
}

// mayHelp says whether an upstream may be asked for the peer once more.
func (p *probing) mayHelp() bool {
	if !p.helped.take(0) {
		return false
	}
	if there := p.address.Load(); there != nil && !there.helped.take(0) {
		p.helped.giveBack()
		return false
	}
	return true
}

// claimTo is the claim about a hash part that a peer gets.
func (n *Node) claimTo(ctx context.Context, t *tally, hp store.HashPart) (sharedClaim, error) {
	if !n.mayLook(t, narMisses) {
		return sharedClaim{}, store.ErrNotFound
	}
	c, err := n.sharer.sharedClaim(ctx, hp)
	if err == nil || !errors.Is(err, store.ErrNotFound) { // a store that cannot be read is not the peer's fault
		t.probing.found()
	}
	return c, err
}

// refuse answers a request with "not here", for each thing that it asks for.
func refuse(bw *bufio.Writer, r request) error {
	b := make([]byte, len(r.hashParts), len(r.hashParts)+1)
	if r.kind == askClaims {
		b = append(b, 0) // nothing further
	}
	_, err := bw.Write(b)
	return err
}
