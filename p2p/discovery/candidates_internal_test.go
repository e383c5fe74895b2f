package discovery

import (
	"cmp"
	"errors"
	"slices"
	"testing"
	"time"

	"narbor/p2p/p2ptest"

	"github.com/libp2p/go-libp2p/core/peer"
)

// newKnown returns candidates of which so many are known, and when all of them are due.
func newKnown(t *testing.T, known int) (*candidates, time.Time) {
	t.Helper()
	k := newTestCandidates(t)
	now := time.Now()
	for range known {
		k.announce(announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/6273"), now)
	}
	return k, now.Add(time.Second)
}

// dialled lets candidates be dialled for so long, and returns the number of dials of each machine; ended is the result
// of each dial.
func (k *candidates) dialled(from time.Time, d time.Duration, ended error) map[peer.ID]int {
	all := map[peer.ID]int{}
	for at := from; at.Before(from.Add(d)); at = at.Add(20 * time.Millisecond) {
		due, _ := k.step(at)
		for _, info := range due {
			all[info.ID]++
			k.finished(info.ID, ended, true, at)
			if ended == nil && !k.standing(info.ID).Visit {
				k.peers[info.ID].due = at.Add(time.Hour) // it is connected, as far as it can be here
			}
		}
	}
	return all
}

func TestOfManyMachinesTheClosestAreKept(t *testing.T) {
	k, now := newKnown(t, 3*maxKept)
	got := k.dialled(now, 10*time.Second, nil)
	if len(got) != maxKept {
		t.Errorf("%d of %d machines were dialled, want %d", len(got), 3*maxKept, maxKept)
	}
	for id := range got {
		if closer := k.closer(id); closer >= maxKept {
			t.Errorf("a machine was dialled that has %d closer than it", closer)
		}
	}
	if a, b := p2ptest.NewPeer(t), p2ptest.NewPeer(t); pairWeight(a, b) != pairWeight(b, a) {
		t.Error("two machines do not agree how close they are")
	}
}

// closer counts the machines that are closer than one.
func (k *candidates) closer(id peer.ID) (n int) {
	for _, c := range k.peers {
		if c.weight > k.peers[id].weight {
			n++
		}
	}
	return n
}

func TestUnreachableMachineTakesNoPlace(t *testing.T) {
	k, now := newKnown(t, maxKept+20)
	got := k.dialled(now, time.Minute, errors.New("no answer"))
	if len(got) != maxKept+20 {
		t.Errorf("%d machines were dialled, want all %d, as none is there", len(got), maxKept+20)
	}
}

func TestNonNeighboursAreVisitedWhenSomethingIsMissed(t *testing.T) {
	const nonNeighbours = 300
	k, now := newKnown(t, maxKept+nonNeighbours)
	k.dialled(now, time.Minute, nil)
	now = now.Add(time.Minute)
	least := k.least()
	visited := func() (n, most int) {
		for id, times := range k.dialled(now, 20*time.Second, nil) {
			if k.peers[id].weight < least {
				n, most = n+1, max(most, times)
				k.lose(id, now)
			}
		}
		now = now.Add(20 * time.Second)
		return n, most
	}
	if n, _ := visited(); n > 0 {
		t.Errorf("%d non-neighbours were visited for nothing", n)
	}
	if any, _ := k.miss(now); !any {
		t.Error("no machine is left to ask")
	}
	if n, most := visited(); n != nonNeighbours || most != 1 {
		t.Errorf("%d of %d non-neighbours were visited, up to %d times; want each once", n, nonNeighbours, most)
	}
	k.miss(now)
	if n, _ := visited(); n > 0 {
		t.Errorf("%d non-neighbours were visited again, %v after the first time", n, 20*time.Second)
	}
	now = now.Add(revisit)
	k.miss(now)
	if n, most := visited(); n != nonNeighbours || most != 1 {
		t.Errorf("later %d of %d non-neighbours were visited, up to %d times; want each once", n, nonNeighbours, most)
	}
}

func TestVisitsAreBounded(t *testing.T) {
	k, now := newKnown(t, maxKept+300)
	k.dialled(now, time.Minute, nil)
	now = now.Add(time.Minute)
	k.miss(now)
	nonNeighbours := 0
	due, _ := k.step(now)
	for _, info := range due {
		if k.standing(info.ID).Visit {
			nonNeighbours++
		}
	}
	if nonNeighbours != maxVisits {
		t.Errorf("%d non-neighbours are dialled at once, want %d", nonNeighbours, maxVisits)
	}
}

func TestVisitsArePaced(t *testing.T) {
	k, now := newKnown(t, maxKept+300)
	k.dialled(now, time.Minute, nil)
	now = now.Add(time.Minute)
	k.miss(now)
	visits := func() (all int) {
		for {
			before := all
			due, _ := k.step(now)
			for _, info := range due {
				k.finished(info.ID, nil, true, now)
				if k.standing(info.ID).Visit {
					k.endVisit(info.ID, false)
					all++
				}
			}
			if all == before {
				return all
			}
		}
	}
	if got := visits(); got != visitBurst {
		t.Errorf("%d non-neighbours are visited at a time, want %d", got, visitBurst)
	}
	now = now.Add(time.Second)
	if got := visits(); got != visitRate {
		t.Errorf("%d more are visited a second later, want %d", got, visitRate)
	}
}

func TestOfUsefulNonNeighboursTheLastAreKept(t *testing.T) {
	k, now := newKnown(t, maxKept+3*maxRetained)
	k.dialled(now, time.Minute, nil)
	now = now.Add(time.Minute)
	k.miss(now)
	var left []peer.ID
	for at := now; at.Before(now.Add(10 * time.Second)); at = at.Add(20 * time.Millisecond) {
		due, _ := k.step(at)
		for _, info := range due {
			k.finished(info.ID, nil, true, at)
			if k.standing(info.ID).Visit {
				left = append(left, k.endVisit(info.ID, true)...)
			}
		}
	}
	if len(k.visits.retained) != maxRetained || len(left) != 2*maxRetained {
		t.Errorf("%d useful non-neighbours stay and %d were let go, want %d and %d", len(k.visits.retained), len(left), maxRetained,
			2*maxRetained)
	}
}

func TestMachinesBeyondTheKeptAreNonNeighbours(t *testing.T) {
	k, now := newKnown(t, maxKept+20)
	k.dialled(now, 10*time.Second, nil)
	nonNeighbours := 0
	for id := range k.peers {
		if k.standing(id).NonNeighbour {
			nonNeighbours++
		}
	}
	if k.standing(p2ptest.NewPeer(t)).NonNeighbour || nonNeighbours != 20 {
		t.Errorf("of %d machines %d are non-neighbours, want 20", maxKept+20, nonNeighbours)
	}
}

// A non-neighbour may have answered before its dial is known to have ended.
func TestVisitsThatEndAtOnceAreCountedRight(t *testing.T) {
	k, now := newKnown(t, maxKept+10*maxVisits)
	k.dialled(now, time.Minute, nil)
	now = now.Add(time.Minute)
	k.miss(now)
	visits := 0
	for at := now; at.Before(now.Add(10 * time.Second)); at = at.Add(20 * time.Millisecond) {
		due, _ := k.step(at)
		for _, info := range due {
			if k.standing(info.ID).Visit {
				visits++
				k.endVisit(info.ID, true)
			}
			k.finished(info.ID, nil, true, at)
		}
	}
	if visits < 10*maxVisits || k.visits.underWay != 0 || k.dialing != 0 {
		t.Errorf("after %d visits %d are under way, and %d dials; want all %d over", visits, k.visits.underWay, k.dialing, 10*maxVisits)
	}
}

// Of 500 machines each has a bounded number of neighbours, and all non-neighbours of one are visited within a while.
// Here a dial takes 10 ms, and nothing else of the network is there.
func TestFiveHundredMachines(t *testing.T) {
	const machines = 500
	ids := make([]peer.ID, machines)
	for i := range ids {
		ids[i] = p2ptest.NewPeer(t)
	}
	kept := map[[2]int]bool{}
	for i, a := range ids {
		others := make([]int, 0, machines)
		for j := range ids {
			if i != j {
				others = append(others, j)
			}
		}
		slices.SortFunc(others, func(x, y int) int { return cmp.Compare(pairWeight(a, ids[y]), pairWeight(a, ids[x])) })
		for _, j := range others[:maxKept] {
			kept[[2]int{min(i, j), max(i, j)}] = true
		}
	}
	degree := make([]int, machines)
	for pair := range kept {
		degree[pair[0]]++
		degree[pair[1]]++
	}
	slices.Sort(degree)
	mean := float64(2*len(kept)) / machines

	k, now := newKnown(t, machines-1)
	k.dialled(now, 10*time.Second, nil)
	now = now.Add(time.Minute)
	k.miss(now)
	var found []time.Duration
	for at, ends := now, []peer.ID(nil); at.Before(now.Add(15 * time.Second)); at = at.Add(10 * time.Millisecond) {
		for _, id := range ends { // those dialled in the step before
			k.finished(id, nil, true, at)
			if k.standing(id).Visit {
				found = append(found, at.Sub(now))
				k.lose(id, at)
			}
		}
		ends = nil
		due, _ := k.step(at)
		for _, info := range due {
			ends = append(ends, info.ID)
		}
	}
	if len(found) != machines-1-maxKept {
		t.Fatalf("%d non-neighbours were visited, want all %d", len(found), machines-1-maxKept)
	}
	worst := found[len(found)-1]
	t.Logf("of %d machines each has %.1f neighbours, at most %d; a non-neighbour is visited after %v, at worst %v", machines, mean,
		degree[machines-1], found[len(found)/2], worst)
	if mean > 1.25*maxKept || degree[machines-1] > 2*maxKept || degree[0] < maxKept {
		t.Errorf("of %d machines each has %d to %d neighbours, %.1f in the mean; want hardly more than %d", machines, degree[0],
			degree[machines-1], mean, maxKept)
	}
	if worst > 15*time.Second {
		t.Errorf("the last non-neighbour is visited after %v, want 15 s", worst)
	}
}
