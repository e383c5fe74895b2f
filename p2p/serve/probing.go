package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
)

// Neighbours are answered exact questions only, but a peer with a dictionary of store paths, say of all versions of a
// program with a known hole, can ask for each. So a question about a path that is not here costs three misses: one of
// the peer's, one of its machine's, because identities and IP addresses cost nothing, and one of those that all
// machines share, because link-layer addresses can be forged. A peer without misses gets "not here" to everything,
// before any lookup: neither the answer nor its time then depends on the paths that are here. Questions about paths
// that are here cost nothing.

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

// takeShare takes a token for a taker that has taken some of late, unless the taker would have more than half of the
// tokens that the others have left. So however much one takes, half of the rest stays for the next. Tokens of the
// reserve are not taken.
func (b *bucket) takeShare(taken float64, reserve int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drip()
	others := max(0, b.size-b.left-taken)
	if taken+1 > (b.size-float64(reserve)*b.shares-others)/2 {
		return false
	}
	b.left--
	return true
}

// taken returns how many tokens have not come back yet.
func (b *bucket) taken() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drip()
	return b.size - b.left
}

func (b *bucket) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left++
}

// A quota holds the remaining tokens of a peer, or of all peers of a machine together.
type quota struct {
	misses *bucket // questions about paths that are not here
	helped *bucket // questions for which an upstream is asked, whatever it answers
	whole  *bucket // misses of all machines; nil in the quota of a peer
	// wrongTellings bounds how often a path is checked because its NAR is said to be wrong.
	wrongTellings *rate.Limiter
}

func newQuota(shares int) *quota {
	return &quota{misses: newBucket(missBurst+narMisses, shares), helped: newBucket(helpBurst, shares),
		wrongTellings: rate.NewLimiter(rate.Limit(wrongRate*float64(shares)), wrongBurst*shares)}
}

// take takes a miss, of which reserve must be left. fair says that it is the machine's own doing if there is none.
func (q *quota) take(reserve int) (ok, fair bool) {
	before := q.misses.taken()
	if !q.misses.take(reserve) {
		return false, true
	}
	if q.whole == nil || q.whole.takeShare(before, reserve) {
		return true, true
	}
	q.misses.giveBack()
	return false, false
}

func (q *quota) giveBack() {
	q.misses.giveBack()
	if q.whole != nil {
		q.whole.giveBack()
	}
}

// A peerQuota is what a peer may still ask about that is not here.
type peerQuota struct {
	*quota
	patience *bucket
	silent   atomic.Int64          // questions answered without looking
	machine  atomic.Pointer[quota] // of the machine that it asked from last; nil before it asked
}

func newPeerQuota() *peerQuota {
	return &peerQuota{quota: newQuota(1), patience: newBucket(missPatience, 1)}
}

// mayLook reports whether something about a hash part may be looked up for a peer, which costs a miss until found takes
// that back. Of its misses reserve must be left.
func (srv *Server) mayLook(c Client, hp store.HashPart, reserve int) bool {
	p := c.quota
	ok, own := p.take(reserve)
	if there := p.machine.Load(); ok && there != nil {
		if ok, own = there.take(reserve); !ok {
			p.giveBack()
		}
	}
	if ok {
		return true
	}
	if p.silent.Add(1) == 1 {
		srv.cfg.Log.Info("neighbour asks for much that is not here, so some of it is answered without looking",
			zap.Stringer("peer", c.tally.ID))
	}
	if own && srv.repeats.first(c.tally.ID, hp) && !p.patience.spend() { // otherwise others have asked too much
		srv.cfg.Ledger.Strike(c.tally.ID, fmt.Errorf("asked about far more than %d paths that are not here: %w", missPatience,
			peers.ErrProbing))
	}
	return false
}

// found says that what was looked up is here.
func (p *peerQuota) found() {
	p.giveBack()
	if there := p.machine.Load(); there != nil {
		there.giveBack()
	}
}

// mayHelp says whether an upstream may be asked for the peer once more.
func (p *peerQuota) mayHelp() bool {
	if !p.helped.take(0) {
		return false
	}
	if there := p.machine.Load(); there != nil && !there.helped.take(0) {
		p.helped.giveBack()
		return false
	}
	return true
}

// claimTo is the claim about a hash part that a peer gets.
func (srv *Server) claimTo(ctx context.Context, c Client, hp store.HashPart) (sharedClaim, error) {
	if !srv.mayLook(c, hp, narMisses) {
		return sharedClaim{}, store.ErrNotFound
	}
	srv.cfg.Meet(c.tally.ID, hp)
	made, err := srv.sharedClaim(ctx, hp)
	if err == nil || !errors.Is(err, store.ErrNotFound) { // a store that cannot be read is not the peer's fault
		c.quota.found()
	}
	return made, err
}

// refuse answers a request with "not here", for each thing that it asks for.
func refuse(bw *bufio.Writer, r wire.Request) error {
	b := make([]byte, len(r.HashParts), len(r.HashParts)+1)
	if r.Kind == wire.AskClaims {
		b = append(b, 0) // nothing further
	}
	_, err := bw.Write(b)
	return err
}
