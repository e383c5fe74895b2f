package proxy

import (
	"net/netip"
	"sync"
	"time"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// downloads are the NARs that this machine fetches from its upstreams because neighbours have asked for them.
type downloads struct {
	budget int64                             // bytes of NARs a day, in all; half of what others leave of it for one address
	failed *lru.Cache[store.Hash, time.Time] // what could not be fetched, and when; it is not tried again at once

	mu      sync.Mutex // guards the rest
	running map[store.Hash]*download
	all     allowance
	each    *lru.Cache[netip.Addr, *allowance] // identities cost nothing, addresses a little more
	bytes   int64                              // of NARs, since the start
}

// A download is a NAR that is being fetched for others.
type download struct {
	from   netip.Addr  // address of the first peer that asked
	expiry *time.Timer // ends it, once no peer asks for its progress
}

// An allowance is a number of bytes that may still be spent. It grows back over a day.
type allowance struct {
	spent int64
	at    time.Time
}

// settle gives back what has grown until now, if budget is what there is in a day.
func (a *allowance) settle(budget int64, now time.Time) {
	if !a.at.IsZero() {
		a.spent = max(0, a.spent-int64(float64(budget)*now.Sub(a.at).Hours()/24))
	}
	a.at = now
}

func newDownloads(budget int64) *downloads {
	each := lru.New[netip.Addr, *allowance](maxAskerAddrs)
	failed := lru.New[store.Hash, time.Time](maxFailed)
	return &downloads{budget: budget, running: map[store.Hash]*download{}, each: each, failed: failed}
}

// spend reports whether neighbours at an address may have n bytes fetched. However many addresses one user has, half of
// the remaining budget stays for the next. The caller holds mu.
func (b *downloads) spend(from netip.Addr, n int64, now time.Time) bool {
	own := b.own(from)
	own.settle(b.budget/2, now)
	b.all.settle(b.budget, now)
	others := max(0, b.all.spent-own.spent)
	if own.spent+n > (b.budget-others)/2 {
		return false
	}
	own.spent += n
	b.all.spent += n
	return true
}

// unspend takes back what spend has done. The caller holds mu.
func (b *downloads) unspend(from netip.Addr, n int64) {
	for _, a := range []*allowance{&b.all, b.own(from)} {
		a.spent = max(0, a.spent-n)
	}
}

// own returns what has been spent for an address. The caller holds mu.
func (b *downloads) own(from netip.Addr) *allowance {
	a, ok := b.each.Get(from)
	if !ok {
		a = &allowance{}
		b.each.Add(from, a)
	}
	return a
}

// touch reports whether a NAR is being downloaded, and lets it go on for a while.
func (b *downloads) touch(nar store.Hash) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.running[nar]
	if j != nil {
		j.expiry.Reset(fetch.ProxyExpiry)
	}
	return j != nil
}

// begin makes a download of a NAR, which start begins to fetch, and cancel ends. The caller calls end if begun is true. If
// the NAR is being fetched already, for others or, as start says by false, for this machine, going is true, and nothing is
// spent. If neither is true, there is no room, or no budget, or the NAR could not be fetched a moment ago.
func (b *downloads) begin(from netip.Addr, m trust.Mapping, start func() bool, cancel func()) (begun, going bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running[m.NarHash()] != nil {
		return false, true
	}
	if at, ok := b.failed.Get(m.NarHash()); ok && time.Since(at) < peers.BackoffTime {
		return false, false
	}
	own := 0
	for _, j := range b.running {
		if j.from == from {
			own++
		}
	}
	if len(b.running) >= maxDownloads || own >= maxDownloads/2 || !b.spend(from, m.NarSize(), time.Now()) {
		return false, false
	}
	if !start() {
		b.unspend(from, m.NarSize())
		return false, true
	}
	b.running[m.NarHash()] = &download{from: from, expiry: time.AfterFunc(fetch.ProxyExpiry, cancel)}
	return true, false
}

func (b *downloads) end(nar store.Hash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[nar].expiry.Stop()
	delete(b.running, nar)
}

// giveBack gives back what begin has spent on a NAR of which nothing was received.
func (b *downloads) giveBack(from netip.Addr, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unspend(from, n)
}

// received counts a NAR of n bytes that is being received. The count is a metric, and never goes down.
func (b *downloads) received(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes += n
}

// left is how many bytes of NARs may still be fetched for neighbours.
func (b *downloads) left(now time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.all
	a.settle(b.budget, now)
	return b.budget - a.spent
}

// total is how many bytes of NARs neighbours have asked for since the start.
func (b *downloads) total() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}
