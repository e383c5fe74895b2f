package discovery

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"narbor/p2p/netmon"
)

// candidates are the machines that might be there. They decide which of them are dialled, and when, and which stay
// connected: this machine's neighbour set.
//
// Each pair of machines has a weight, which both compute from their two IDs, and each machine keeps connections to the
// [maxKept] machines with which its weight is highest. So two machines mostly agree on whether to stay connected,
// without negotiation, and all machines have about the same number of neighbours. The rest are non-neighbours: known,
// and not connected to. When no neighbour has a path, non-neighbours are visited one after the other, and asked for all
// paths missed lately. A non-neighbour that has one of them stays a neighbour, because the rest of the closure is
// likely to be there, too.
//
// candidates have no lock, no goroutine and no clock: the [Dialer] has all three.
type candidates struct {
	self          peer.ID
	connected     func(peer.ID) bool
	kept          int // how many to keep
	peers         map[peer.ID]*candidate
	budget        *rate.Limiter
	dialing       int       // visits are not counted
	changed       time.Time // when the links changed last
	round         firstLook
	visits        visits
	nonNeighbours int  // how many there were in the last step
	barred        bool // no machine could be reached, that was reported, and none was reached since
}

// visits are the short connections to non-neighbours.
type visits struct {
	missed   time.Time // when a path was missed last
	underWay int       // their dials
	budget   *rate.Limiter
	retained []peer.ID // the non-neighbours that stay because they had something, the oldest first
}

func newCandidates(self peer.ID, connected func(peer.ID) bool, kept int, round firstLook) *candidates {
	return &candidates{self: self, connected: connected, kept: cmp.Or(kept, maxKept), peers: make(map[peer.ID]*candidate),
		budget: rate.NewLimiter(dialRate, dialBudget), round: round, visits: visits{budget: rate.NewLimiter(visitRate, visitBurst)}}
}

// step removes expired machines, and returns the machines to dial now and the time until the next step.
func (s *candidates) step(now time.Time) ([]peer.AddrInfo, time.Duration) {
	var due []peer.AddrInfo
	wait := restMax
	busy, least, nonNeighbours := false, s.least(), 0
	for _, id := range s.byPromise() {
		c := s.peers[id]
		switch connected := s.connected(id); {
		case c.dialing, connected:
			c.tried = c.tried || connected
			busy = busy || s.awaits(c, now)
			continue
		case now.After(c.expiry):
			delete(s.peers, id)
			continue
		case c.weight < least && !c.retained:
			nonNeighbours++
			visit, next := s.beginVisit(c, now)
			if visit {
				due = append(due, peer.AddrInfo{ID: id, Addrs: c.addrs})
			}
			wait = min(wait, next)
			continue
		case now.Before(c.due):
			wait = min(wait, c.due.Sub(now))
		case s.dialing >= maxDials:
			// the end of a dial wakes us
		case !s.budget.AllowN(now, 1):
			wait = min(wait, time.Second/dialRate)
		default:
			c.dialing = true
			s.dialing++
			due = append(due, peer.AddrInfo{ID: id, Addrs: c.addrs})
		}
		busy = busy || s.awaits(c, now)
	}
	s.nonNeighbours = nonNeighbours
	if !s.round.done {
		wait = min(wait, 50*time.Millisecond)
		s.round.done = s.round.over(now, busy)
	}
	return due, wait
}

// awaits reports whether Nix waits for a candidate to be tried. A machine known by hearsay only may be long gone, and
// its dial then takes its time, so it is not waited for after the first round.
func (s *candidates) awaits(c *candidate, now time.Time) bool {
	return (!c.tried || c.dialing) && (!c.hearsay() || now.Sub(s.round.start) < firstRound)
}

// byPromise returns the machines in the order in which they are to be dialled: first by fewest failures, so that a
// flood of invented machines delays real ones only briefly, then by highest weight.
func (s *candidates) byPromise() []peer.ID {
	return slices.SortedFunc(maps.Keys(s.peers), func(a, b peer.ID) int {
		x, y := s.peers[a], s.peers[b]
		return cmp.Or(cmp.Compare(x.failures, y.failures), cmp.Compare(y.weight, x.weight))
	})
}

// barredAfter is the number of failed dials to a machine that was never reached before that is logged.
const barredAfter = 2

// finished records how a dial ended; alone says that no machine is connected. It returns true the first time that a
// machine is announced and none can be reached.
func (s *candidates) finished(id peer.ID, err error, alone bool, now time.Time) (barred bool) {
	c := s.peers[id]
	if c != nil && c.calling {
		c.calling = false
		s.visits.underWay--
	} else {
		s.dialing--
	}
	if c == nil {
		return false
	}
	c.dialing, c.tried = false, true
	if err == nil {
		c.since, s.barred = now, false
		return false
	}
	c.visit = false
	c.failures++
	c.due = now.Add(backoff(c.failures-1, redialMin))
	barred = !s.barred && c.failures == barredAfter && c.since.IsZero() && c.via == viaMDNS && alone
	s.barred = s.barred || barred
	return barred
}

// announce records an announcement. It reports whether the machine is to be dialled soon, because it is new or
// announces another address than before.
func (s *candidates) announce(a announcement, now time.Time) (soon bool) {
	if a.via != viaMDNS && a.via != viaGateway { // of other sources it is unknown on which of our links it is
		a.addrs, _ = netmon.ByReach(a.addrs)
	}
	if len(a.addrs) == 0 {
		return false
	}
	c := s.peers[a.id]
	if c == nil {
		if len(s.peers) >= maxKnown && !s.makeRoom() {
			return false
		}
		c = &candidate{announcement: a, due: now, weight: pairWeight(s.self, a.id)}
		if s.self < a.id {
			c.due = now.Add(yield/2 + rand.N(yield/2))
		}
		s.peers[a.id] = c
		s.round.newest = now
		return true
	}
	if a.hearsay() {
		c.fill(a)
		return false
	}
	c.expiry = a.expiry
	if again := now.Add(yield + redialMin); again.Before(c.due) {
		c.due, soon = again, true // there it is
	}
	for _, m := range a.addrs {
		if !ma.Contains(c.addrs, m) {
			c.addrs = append([]ma.Multiaddr{m}, c.addrs...) // the newest first
			c.due, c.failures, soon = now, 0, true
		}
	}
	c.addrs = slices.Clip(c.addrs[:min(len(c.addrs), netmon.MaxAddrs)])
	return soon
}

// makeRoom forgets the machine that could not be reached most often.
func (s *candidates) makeRoom() bool {
	var worst *candidate
	for id, c := range s.peers {
		if c.failures > 0 && !c.dialing && !s.connected(id) && (worst == nil || c.failures > worst.failures) {
			worst = c
		}
	}
	if worst != nil {
		delete(s.peers, worst.id)
	}
	return worst != nil
}

// lose notes that the last connection to a machine ended.
func (s *candidates) lose(id peer.ID, now time.Time) {
	c := s.peers[id]
	if c == nil {
		return
	}
	if c.retained {
		c.retained = false
		s.visits.retained = slices.DeleteFunc(s.visits.retained, func(h peer.ID) bool { return h == id })
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
	if now.Sub(s.changed) < probeTimeout+time.Second {
		c.due = now // this machine moved or slept
	}
	if again := now.Add(missFor); c.expiry.Before(again) {
		c.expiry = again
	}
}

// linksChanged makes all machines due at once.
func (s *candidates) linksChanged(now time.Time) {
	s.changed = now
	for _, c := range s.peers {
		c.due, c.failures = now, 0
	}
}

// looked records that the links have been looked at, and whether a link was up.
func (s *candidates) looked(linked bool, now time.Time) {
	s.round.looked = true
	if linked && s.round.linked.IsZero() {
		s.round.linked = now
	}
}

// via returns how a machine was found first; "" is not at all.
func (s *candidates) via(id peer.ID) string {
	if c := s.peers[id]; c != nil {
		return c.via
	}
	return ""
}

// least returns the weight from which on machines are kept. A machine that could not be reached when it was dialled
// last takes no place.
func (s *candidates) least() uint64 {
	weights := make([]uint64, 0, len(s.peers))
	for _, c := range s.peers {
		if c.failures == 0 || c.dialing {
			weights = append(weights, c.weight)
		}
	}
	if len(weights) <= s.kept {
		return 0
	}
	slices.Sort(weights)
	return weights[len(weights)-s.kept]
}

// A Standing is the relation of a machine to this one.
type Standing struct {
	Kept         bool // it is one of the machines that stay connected
	NonNeighbour bool // it is known, and is none of them
	Visit        bool // it was dialled to be asked for what was missed
}

func (s *candidates) standing(id peer.ID) Standing {
	c := s.peers[id]
	if c == nil {
		return Standing{}
	}
	near := c.weight >= s.least()
	return Standing{Kept: c.retained || !c.visit && near, NonNeighbour: !c.retained && !near, Visit: c.visit}
}

// wants says whether a non-neighbour is to be asked: something has been missed since it was asked, and that is long
// enough ago.
func (s *candidates) wants(c *candidate, now time.Time) bool {
	return s.visits.missed.After(c.visited) && now.Sub(s.visits.missed) < WantedFor && now.Sub(c.visited) >= revisit && !now.Before(c.due)
}

// beginVisit begins a visit to a non-neighbour if one is due and may be made. It reports whether it is dialled now, and
// if it is not, how long until the next look.
func (s *candidates) beginVisit(c *candidate, now time.Time) (bool, time.Duration) {
	switch {
	case !s.wants(c, now), s.visits.underWay >= maxVisits: // the end of a visit wakes us
		return false, redialMax
	case !s.visits.budget.AllowN(now, 1):
		return false, time.Second / visitRate
	}
	s.visits.underWay++
	c.visit, c.calling, c.dialing, c.visited = true, true, true, now
	return true, redialMax
}

// miss records that no neighbour has a path. It returns whether there are non-neighbours to ask, and whether a step has
// to begin for that; within a second of the last miss there will be one soon enough.
func (s *candidates) miss(now time.Time) (any, wake bool) {
	if s.nonNeighbours == 0 {
		return false, false
	}
	wake = now.Sub(s.visits.missed) >= time.Second
	s.visits.missed = now
	return true, wake
}

// endVisit ends a visit. A machine that had a wanted path is retained; the oldest retained one is dropped if there are
// too many. It returns the machines that are no longer kept.
func (s *candidates) endVisit(id peer.ID, useful bool) (leaves []peer.ID) {
	c := s.peers[id]
	if c == nil || !c.visit {
		return nil
	}
	if !useful {
		return []peer.ID{id} // lose ends the visit
	}
	c.visit, c.retained = false, true
	s.visits.retained = append(s.visits.retained, id)
	if len(s.visits.retained) > maxRetained {
		oldest := s.visits.retained[0]
		s.visits.retained = s.visits.retained[1:]
		if o := s.peers[oldest]; o != nil {
			o.retained = false
			if o.weight < s.least() {
				o.visit = true // its end must not count as a failure
				return []peer.ID{oldest}
			}
		}
	}
	return nil
}
