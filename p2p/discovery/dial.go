package discovery

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"narbor/p2p/netmon"
)

const (
	// restMax is the longest pause between two looks at machines of which there is no news.
	restMax = time.Minute
	// steady is how long a connection must hold for the pause to begin anew.
	steady = 10 * time.Second
	// yield is how long, at most, one of two machines that see each other waits for the other to dial first. Without
	// it, most pairs would end up with two connections.
	yield = 250 * time.Millisecond

	// firstRound is how long the first answers to a multicast question may take; after it no unknown machine is
	// expected. lateAnswer is the time without new machines that is required as well.
	firstRound = time.Second
	lateAnswer = 300 * time.Millisecond
)

// An announcement says where a machine can be reached, according to itself or to hearsay.
type announcement struct {
	id     peer.ID
	addrs  []ma.Multiaddr
	expiry time.Time
	via    string // its source: one of the sources of [NeighbourStatus]
}

// hearsay reports whether the announcement comes from another machine, or from the machine itself long ago. It fills
// gaps, and displaces nothing.
func (a announcement) hearsay() bool { return a.via == ViaExchange || a.via == viaRemembered }

// A candidate is a machine that might be there.
type candidate struct {
	announcement
	due      time.Time // when to dial it, unless it is connected by then
	failures int       // in a row
	dialing  bool
	tried    bool      // at least once
	since    time.Time // when the last dial succeeded

	score   uint64    // see [circle]
	visited time.Time // when it was dialled for a visit
	visit   bool      // that is under way
	calling bool      // its dial, too; the visit may be over before that is noted
	host    bool      // it stays, because it had something
}

// A Dialer stays connected to every announced machine, whatever the source. All but the named peers are handled here:
// so there is one budget of dials, and one place where a machine becomes due.
type Dialer struct {
	LAN    *LAN
	budget *rate.Limiter
	wake   chan struct{} // there may be something to do

	mu      sync.Mutex // guards what follows
	peers   map[peer.ID]*candidate
	dialing int       // visits are not counted
	changed time.Time // when the links changed last
	round   firstLook
	circle  circle
	barred  bool // no machine could be reached, that was reported, and none was reached since
}

// A firstLook is the state from which the keeper decides whether discovery has settled.
type firstLook struct {
	start   time.Time // when looking began
	linked  time.Time // when the first link came up; zero: there is none
	newest  time.Time // when the last machine was found
	untried int       // named peers that have not been tried, and 1 until the remembered peers of this network are known
	looked  bool      // whether the links have been looked at
	mdns    bool
	done    bool
}

// over reports whether no further machine is expected soon; busy means that a known machine is yet to be tried.
func (f firstLook) over(now time.Time, busy bool) bool {
	if now.Sub(f.start) >= settleLimit {
		return true
	}
	if busy || f.untried > 0 || !f.looked {
		return false
	}
	if !f.mdns || f.linked.IsZero() {
		return true
	}
	return now.Sub(f.linked) >= firstRound && now.Sub(f.newest) >= lateAnswer
}

func newKeeper(l *LAN) *Dialer {
	places := 0
	if l.net == nil {
		places = 1 // which are looked at as if they were named
	}
	return &Dialer{
		LAN: l, budget: rate.NewLimiter(dialRate, dialBudget), wake: make(chan struct{}, 1),
		peers: make(map[peer.ID]*candidate),
		round: firstLook{untried: len(l.named) + places, mdns: l.mdns}, circle: newCircle(l.net),
	}
}

// run dials until ctx ends.
func (k *Dialer) run(ctx context.Context) error {
	k.mu.Lock()
	k.round.start = time.Now()
	k.mu.Unlock()
	var dials sync.WaitGroup
	defer dials.Wait()
	for {
		due, wait := k.step(time.Now())
		for _, info := range due {
			dials.Go(func() {
				err := k.LAN.connect(ctx, info)
				if err != nil {
					k.LAN.Log.Debug("neighbour not reached", zap.Stringer("peer", info.ID), zap.Error(err))
				}
				if k.finished(info.ID, err, time.Now()) {
					k.LAN.Log.Warn("machines around announce themselves and cannot be reached: see narbor doctor", zap.Error(err))
				}
				if err == nil && k.Standing(info.ID).Visit {
					select {
					case <-ctx.Done():
					case <-time.After(visitTime):
					}
					k.EndVisit(info.ID, false)
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-time.After(wait):
		}
	}
}

// step removes expired machines, and returns the machines to dial now and the time until the next step.
func (k *Dialer) step(now time.Time) ([]peer.AddrInfo, time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var due []peer.AddrInfo
	wait := restMax
	busy, least, strangers := false, k.least(), 0
	for _, id := range k.byPromise() {
		c := k.peers[id]
		switch connected := k.LAN.connected(id); {
		case c.dialing, connected:
			c.tried = c.tried || connected
			busy = busy || k.awaits(c, now)
			continue
		case now.After(c.expiry):
			delete(k.peers, id)
			continue
		case c.score < least && !c.host:
			strangers++
			visit, next := k.visit(c, now)
			if visit {
				due = append(due, peer.AddrInfo{ID: id, Addrs: c.addrs})
			}
			wait = min(wait, next)
			continue
		case now.Before(c.due):
			wait = min(wait, c.due.Sub(now))
		case k.dialing >= maxDials:
			// the end of a dial wakes us
		case !k.budget.AllowN(now, 1):
			wait = min(wait, time.Second/dialRate)
		default:
			c.dialing = true
			k.dialing++
			due = append(due, peer.AddrInfo{ID: id, Addrs: c.addrs})
		}
		busy = busy || k.awaits(c, now)
	}
	k.circle.strangers.Store(int64(strangers))
	if !k.round.done {
		wait = min(wait, 50*time.Millisecond)
		if k.round.over(now, busy) {
			k.round.done = true
			close(k.LAN.settled)
		}
	}
	return due, wait
}

// awaits reports whether Nix waits for a candidate to be tried. A machine known by hearsay only may be long gone, and
// its dial then takes its time, so it is not waited for after the first round. The caller holds mu.
func (k *Dialer) awaits(c *candidate, now time.Time) bool {
	return (!c.tried || c.dialing) && (!c.hearsay() || now.Sub(k.round.start) < firstRound)
}

// byPromise returns the machines in the order in which they are to be dialled: first by fewest failures, so that a
// flood of invented machines delays real ones only briefly, then by highest score. The caller holds mu.
func (k *Dialer) byPromise() []peer.ID {
	return slices.SortedFunc(maps.Keys(k.peers), func(a, b peer.ID) int {
		x, y := k.peers[a], k.peers[b]
		return cmp.Or(cmp.Compare(x.failures, y.failures), cmp.Compare(y.score, x.score))
	})
}

// barredAfter is how many dials of a machine that was never reached must fail for that to be worth a word.
const barredAfter = 2

// finished records how a dial ended. It returns true the first time that a machine is announced and none can be
// reached.
func (k *Dialer) finished(id peer.ID, err error, now time.Time) (barred bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer netmon.Hint(k.wake)
	c := k.peers[id]
	if c != nil && c.calling {
		c.calling = false
		k.circle.visiting--
	} else {
		k.dialing--
	}
	if c == nil {
		return false
	}
	c.dialing, c.tried = false, true
	if err == nil {
		c.since, k.barred = now, false
		return false
	}
	c.visit = false
	c.failures++
	c.due = now.Add(backoff(c.failures-1, redialMin))
	barred = !k.barred && c.failures == barredAfter && c.since.IsZero() && c.via == viaMDNS && len(k.LAN.host.Network().Peers()) == 0
	k.barred = k.barred || barred
	return barred
}

// announce takes word of a machine. It is dialled soon if it is new, or says that it is elsewhere than before.
func (k *Dialer) announce(a announcement, now time.Time) {
	if a.via != viaMDNS && a.via != viaGateway { // of other sources it is unknown on which of our links it is
		a.addrs, _ = netmon.ByReach(a.addrs)
	}
	if len(a.addrs) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.peers[a.id]
	if c == nil {
		if len(k.peers) >= maxKnown && !k.makeRoom() {
			return
		}
		c = &candidate{announcement: a, due: now, score: closeness(k.LAN.host.ID(), a.id)}
		if k.LAN.host.ID() < a.id {
			c.due = now.Add(yield/2 + rand.N(yield/2))
		}
		k.peers[a.id] = c
		k.round.newest = now
		netmon.Hint(k.wake)
		return
	}
	if a.hearsay() {
		c.fill(a)
		return
	}
	c.expiry = a.expiry
	if soon := now.Add(yield + redialMin); soon.Before(c.due) {
		c.due = soon // there it is again
		netmon.Hint(k.wake)
	}
	for _, m := range a.addrs {
		if !ma.Contains(c.addrs, m) {
			c.addrs = append([]ma.Multiaddr{m}, c.addrs...) // the newest first
			c.due, c.failures = now, 0
			netmon.Hint(k.wake)
		}
	}
	c.addrs = slices.Clip(c.addrs[:min(len(c.addrs), netmon.MaxAddrs)])
}

// fill takes hearsay about a machine of which there is word already.
func (c *candidate) fill(a announcement) {
	if a.expiry.After(c.expiry) {
		c.expiry = a.expiry
	}
	for _, m := range a.addrs {
		if !ma.Contains(c.addrs, m) && len(c.addrs) < netmon.MaxAddrs {
			c.addrs = append(c.addrs, m)
		}
	}
}

// makeRoom forgets the machine that could not be reached most often. The caller holds mu.
func (k *Dialer) makeRoom() bool {
	var worst *candidate
	for id, c := range k.peers {
		if c.failures > 0 && !c.dialing && !k.LAN.connected(id) && (worst == nil || c.failures > worst.failures) {
			worst = c
		}
	}
	if worst != nil {
		delete(k.peers, worst.id)
	}
	return worst != nil
}

// lose notes that the last connection to a machine ended.
func (k *Dialer) lose(id peer.ID, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.peers[id]
	if c == nil {
		return
	}
	if c.host {
		c.host = false
		k.circle.hosts = slices.DeleteFunc(k.circle.hosts, func(h peer.ID) bool { return h == id })
	}
	if c.visit { // it was to end
		c.visit = c.dialing
		return
	}
	c.failures++
	if now.Sub(c.since) > steady {
		c.failures = 0
	}
	c.due = now.Add(backoff(c.failures, redialMin))
	if now.Sub(k.changed) < probeTimeout+time.Second {
		c.due = now // this machine moved or slept
	}
	if again := now.Add(missFor); c.expiry.Before(again) {
		c.expiry = again
	}
	netmon.Hint(k.wake)
}

// linksChanged makes everybody worth another try at once.
func (k *Dialer) linksChanged(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = now
	for _, c := range k.peers {
		c.due, c.failures = now, 0
	}
	netmon.Hint(k.wake)
}

// looked records that the links have been looked at, and whether a link was up.
func (k *Dialer) looked(linked bool, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.round.looked = true
	if linked && k.round.linked.IsZero() {
		k.round.linked = now
	}
	netmon.Hint(k.wake)
}

// namedTried notes that one more of the named peers has been tried.
func (k *Dialer) namedTried() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.round.untried--
	netmon.Hint(k.wake)
}

// via returns how a machine was found first; "" is not at all.
func (k *Dialer) via(id peer.ID) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.peers[id]; c != nil {
		return c.via
	}
	return ""
}

// backoff returns the pause after a number of failures: it doubles, with half of it up to chance, so that machines
// that lost each other at the same moment do not come back at the same moment.
func backoff(failures int, first time.Duration) time.Duration {
	d := min(first<<min(failures, 10), redialMax)
	return d/2 + rand.N(d/2+1)
}
