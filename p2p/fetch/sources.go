package fetch

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
)

// sources is the holders of a NAR: which are asked for blocks, stand by, or have failed. It has no lock, no goroutine
// and no clock: its owner guards it and passes the time.
type sources struct {
	all      []*peers.Neighbour
	waiting  []*peers.Neighbour // of all, those not asked yet
	excluded map[peer.ID]bool
	failures map[peer.ID]int // how often one has failed; [lied] or more if it has lied
	tooSlow  map[*peers.Neighbour]bool
	asked    map[*peers.Neighbour]since // the holders that have been asked for blocks
}

// since is when a holder was asked first, and the bytes that had come from it until then, of all NARs.
type since struct {
	at    time.Time
	bytes int64
}

// rate is the bytes a second that have come from a holder since then, of all NARs.
func (s since) rate(nb *peers.Neighbour, now time.Time) float64 {
	return float64(nb.Tally.BytesReceived.Load()-s.bytes) / max(now.Sub(s.at), time.Millisecond).Seconds()
}

func newSources() sources {
	return sources{excluded: map[peer.ID]bool{}, failures: map[peer.ID]int{}, tooSlow: map[*peers.Neighbour]bool{},
		asked: map[*peers.Neighbour]since{}}
}

func (s *sources) isNew(nb *peers.Neighbour) bool {
	return !s.excluded[nb.ID] && !slices.Contains(s.all, nb)
}

// add adds a holder that is asked when its turn comes.
func (s *sources) add(nb *peers.Neighbour) {
	s.all = append(s.all, nb)
	s.waiting = append(s.waiting, nb)
}

// addAsked adds a holder that has been asked for blocks already.
func (s *sources) addAsked(nb *peers.Neighbour, now time.Time) {
	s.all = append(s.all, nb)
	s.ask(nb, now)
}

func (s *sources) ask(nb *peers.Neighbour, now time.Time) {
	if _, ok := s.asked[nb]; !ok {
		s.asked[nb] = since{now, nb.Tally.BytesReceived.Load()}
	}
}

// next returns a holder that has not been asked yet, or nil.
func (s *sources) next(now time.Time) *peers.Neighbour {
	for len(s.waiting) > 0 {
		nb := s.waiting[0]
		s.waiting = s.waiting[1:]
		if !s.excluded[nb.ID] {
			s.ask(nb, now)
			return nb
		}
	}
	return nil
}

// restrictTo makes holders, or with none all that are not excluded, the ones to ask in the next run.
func (s *sources) restrictTo(holders ...*peers.Neighbour) {
	s.waiting = holders
	if len(holders) == 0 {
		s.waiting = byPromise(slices.Clone(s.all))
	}
}

// exclude takes a peer out, and adds to its failures.
func (s *sources) exclude(id peer.ID, failures int) {
	s.excluded[id] = true
	s.failures[id] += failures
}

// hasLied reports whether a peer is excluded for good.
func (s *sources) hasLied(id peer.ID) bool { return s.failures[id] >= lied }

// readmit lets a peer that failed without a lie be added again.
func (s *sources) readmit(id peer.ID) {
	if s.excluded[id] && !s.hasLied(id) {
		delete(s.excluded, id)
		s.all = slices.DeleteFunc(s.all, func(old *peers.Neighbour) bool { return old.ID == id })
	}
}

// present returns the holders that are not excluded.
func (s *sources) present() (list []*peers.Neighbour) {
	for _, nb := range s.all {
		if !s.excluded[nb.ID] {
			list = append(list, nb)
		}
	}
	return list
}

// othersRate returns how many blocks a second the other holders deliver together, as far as that is known.
func (s *sources) othersRate(nb *peers.Neighbour) (rate float64) {
	for _, other := range s.all {
		if each, known := other.Expect(); known && other != nb && !s.excluded[other.ID] && !slices.Contains(s.waiting, other) {
			rate += 1 / each.Seconds()
		}
	}
	return rate
}

// received returns the bytes that have come from each holder, of all NARs.
func (s *sources) received() map[*peers.Neighbour]int64 {
	came := map[*peers.Neighbour]int64{}
	for _, nb := range s.all {
		came[nb] = nb.Tally.BytesReceived.Load()
	}
	return came
}

// markSlow records that the holders at work are too slow.
func (s *sources) markSlow() {
	for nb := range s.asked {
		if !s.excluded[nb.ID] {
			s.tooSlow[nb] = true
		}
	}
}

// areSlow reports whether the holders that were asked together delivered less than the least that one of them must.
func (s *sources) areSlow(now time.Time) bool {
	var sum float64
	least := int64(peers.LeastPace)
	for nb, from := range s.asked {
		sum += from.rate(nb, now)
		least = max(least, nb.LeastPace())
	}
	return sum < float64(least)
}

// byPromise sorts holders: those with the least to do first, then the fastest, and at random among equals.
func byPromise(holders []*peers.Neighbour) []*peers.Neighbour {
	rand.Shuffle(len(holders), func(i, j int) { holders[i], holders[j] = holders[j], holders[i] })
	slices.SortStableFunc(holders, func(a, b *peers.Neighbour) int {
		da, _ := a.Expect()
		db, _ := b.Expect()
		return cmp.Or(cmp.Compare(a.Busy.Load(), b.Busy.Load()), cmp.Compare(da, db))
	})
	return holders
}
