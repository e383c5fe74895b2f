package serve

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Neighbours get answers to exact questions only, but a peer with a dictionary of store paths, say of all versions of a
// program with a known hole, can ask for each. So a question about a path that is not here costs three misses: one of
// the peer's; one of its machine's, because identities and IP addresses cost nothing; and one of those that all
// machines share, because link-layer addresses can be forged. A peer without misses gets "not here" to everything,
// before any lookup: so neither the answer nor its time depends on the paths that are here. Questions about paths that
// are here cost nothing.

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
	misses  *bucket // questions about paths that are not here
	proxied *bucket // questions for which an upstream is asked, whatever it answers
	whole   *bucket // misses of all machines; nil in the quota of a peer
	// wrongTellings bounds how often a path is checked because its NAR is said to be wrong.
	wrongTellings *rate.Limiter
	// files bounds how often the names of all paths are read to find a file by its hash.
	files *rate.Limiter
}

func newQuota(shares int) *quota {
	return &quota{misses: newBucket(missBurst+narMisses, shares), proxied: newBucket(proxyBurst, shares),
		wrongTellings: rate.NewLimiter(rate.Limit(wrongRate*float64(shares)), wrongBurst*shares),
		files:         rate.NewLimiter(rate.Limit(fileRate*float64(shares)), fileBurst*shares)}
}

// take takes a miss, of which reserve must be left. If there is none, ownFault reports that the machine itself has used
// them up.
func (q *quota) take(reserve int) (ok, ownFault bool) {
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

// found says that what was looked up is here.
func (p *peerQuota) found() {
	p.giveBack()
	if there := p.machine.Load(); there != nil {
		there.giveBack()
	}
}

// spendProxied takes one question to an upstream from the quotas of a peer and its machine. It returns false if one of
// them has none left.
func (p *peerQuota) spendProxied() bool {
	if !p.proxied.take(0) {
		return false
	}
	if there := p.machine.Load(); there != nil && !there.proxied.take(0) {
		p.proxied.giveBack()
		return false
	}
	return true
}
