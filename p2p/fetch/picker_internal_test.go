package fetch

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/wire"
	"narbor/store"
)

// A pickerTest is a picker and the moment that it is told.
type pickerTest struct {
	*testing.T
	picker
	now  time.Time
	owed map[peer.ID][]int
}

func newPickerTest(t *testing.T, blocks int) *pickerTest {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &pickerTest{T: t, picker: newPicker(blocks, store.Hash{1}, "self", now), now: now, owed: map[peer.ID][]int{}}
}

const nothing = -2 // wanted where the picker returns no block

// wants picks for a peer that takes each for a block, and compares.
func (p *pickerTest) wants(want int, id peer.ID, each time.Duration, others float64) {
	p.Helper()
	i, ok := p.pick(ask{id: id, each: each, owed: p.owed[id], others: others}, p.now)
	if !ok {
		i = nothing
	} else {
		p.owed[id] = append(p.owed[id], i)
	}
	if i != want {
		p.Errorf("the picker gives %s block %d, want %d", id, i, want)
	}
}

// comes delivers a block that a peer owes.
func (p *pickerTest) comes(id peer.ID, i int, relayed bool) {
	p.Helper()
	p.owed[id] = slices.DeleteFunc(p.owed[id], func(o int) bool { return o == i })
	p.blocks[i].requests--
	if !p.begin(i) {
		p.Fatalf("block %d is here already", i)
	}
	p.done(i, id, relayed, p.now)
}

func TestPickerGivesEachHolderTheNextBlock(t *testing.T) {
	p := newPickerTest(t, 4)
	p.wants(0, "a", time.Millisecond, 0)
	p.wants(1, "b", time.Millisecond, 0)
	p.wants(2, "a", time.Millisecond, 0)
	p.giveBack(p.owed["b"])
	p.owed["b"] = nil
	p.wants(1, "c", time.Millisecond, 0)
	p.wants(3, "c", time.Millisecond, 0)
}

func TestPickerDuplicatesRequestsAtTheEnd(t *testing.T) {
	p := newPickerTest(t, 3)
	p.wants(0, "slow", time.Second, 0)
	p.wants(1, "slow", time.Second, 0)
	p.wants(2, "fast", 10*time.Millisecond, 0)
	p.comes("fast", 2, false)
	p.wants(1, "fast", 10*time.Millisecond, 0) // the one that is expected last
	p.wants(0, "fast", 10*time.Millisecond, 0)
	p.wants(nothing, "slower", 2*time.Second, 0) // it would not be sooner
}

func TestPickerBoundsDuplicates(t *testing.T) {
	p := newPickerTest(t, 1)
	each := 100 * time.Second
	for k := range MaxRequests {
		p.wants(0, peer.ID(rune('a'+k)), each, 0)
		each /= 4
	}
	p.wants(nothing, "more", time.Millisecond, 0)
	p.now = p.now.Add(100*time.Second + hopelessAfter)
	p.wants(0, "more", time.Millisecond, 0)
}

func TestPickerSparesSlowHolders(t *testing.T) {
	p := newPickerTest(t, 10)
	p.wants(nothing, "slow", 10*time.Second, 100) // the others need 100 ms
	p.wants(0, "slow", 10*time.Second, 0)
	p.now = p.now.Add(overdueAfter + 1) // nothing comes from the others
	p.wants(1, "slow", 10*time.Second, 100)
}

// TestPickerReliesOnBitfields has one partial peer.
func TestPickerReliesOnBitfields(t *testing.T) {
	p := newPickerTest(t, 8)
	p.swarm.offer("partial", false, p.now)
	p.wants(askBitfield, "partial", time.Millisecond, 0)
	have := wire.NewBitmap(8)
	have.Set(5)
	p.swarm.setBitfield("partial", have, p.now)
	p.owed["partial"] = nil
	p.wants(5, "partial", time.Millisecond, 0)
	own := p.assigned("partial")
	for _, i := range own {
		if i != 5 {
			p.wants(i, "partial", time.Millisecond, 0)
		}
	}
	p.wants(nothing, "partial", time.Millisecond, 0)
	p.now = p.now.Add(haveFresh + 1)
	p.owed["partial"] = nil
	p.wants(askBitfield, "partial", time.Millisecond, 0)
}

// assigned returns the blocks that are assigned to a member, or to this node.
func (p *pickerTest) assigned(id peer.ID) (blocks []int) {
	for i := range p.blocks {
		if p.swarm.assignee(i, len(p.blocks)) == p.swarm.members[id] {
			blocks = append(blocks, i)
		}
	}
	return blocks
}

func TestPickerNeedsNoBitfieldForOneBlock(t *testing.T) {
	p := newPickerTest(t, 1)
	p.swarm.offer("partial", false, p.now)
	want := nothing
	if len(p.assigned("partial")) > 0 {
		want = 0
	}
	p.wants(want, "partial", time.Millisecond, 0)
}

// TestPickerLeavesTheSwarmItsBlocks has a holder beside a partial peer that passes on nothing.
func TestPickerLeavesTheSwarmItsBlocks(t *testing.T) {
	p := newPickerTest(t, 16)
	p.swarm.offer("partial", false, p.now)
	foreign := p.assigned("partial")
	if len(foreign) == 0 || len(foreign) == 16 {
		t.Fatalf("%d of 16 blocks are assigned to the only other member", len(foreign))
	}
	for _, i := range p.assigned("self") {
		p.wants(i, "holder", time.Millisecond, 0)
	}
	p.wants(nothing, "holder", time.Millisecond, 0)
	p.now = p.now.Add(minPatience - 1)
	p.wants(nothing, "holder", time.Millisecond, 0)
	p.now = p.now.Add(1)
	p.wants(foreign[0], "holder", time.Millisecond, 0)
}

func TestPickerGivesARootEveryBlock(t *testing.T) {
	p := newPickerTest(t, 3)
	p.swarm.offer("root", true, p.now)
	p.swarm.members["root"].proxy = true
	p.swarm.setBitfield("root", wire.NewBitmap(3), p.now)
	for i := range 3 {
		p.wants(i, "root", time.Millisecond, 0)
	}
}

func TestPickerKnowsTheSenderOfEachBlock(t *testing.T) {
	p := newPickerTest(t, 3)
	for i, relayed := range []bool{false, true, false} {
		p.wants(i, "a", time.Millisecond, 0)
		p.comes("a", i, relayed)
	}
	if got, want := p.senders(), []sender{{"a", false}, {"a", true}, {"a", false}}; p.left != 0 || !slices.Equal(got, want) {
		t.Errorf("senders are %v with %d blocks left, want %v and none left", got, p.left, want)
	}
	p.again(1)
	if p.left != 1 || p.blocks[1].state != blockMissing || p.blocks[2].state != blockDone {
		t.Error("a block that is fetched again is not missing")
	}
	p.wants(1, "b", time.Millisecond, 0)
}

func TestAllMembersAgreeOnOwnerOfBlock(t *testing.T) {
	const blocks = 1000
	nar := testHash()
	ids := []peer.ID{"one", "two", "three", "four"}
	owned := map[peer.ID]int{}
	for i := range blocks {
		owners := map[peer.ID]bool{}
		for _, self := range ids { // as each of them sees it
			c := newPicker(blocks, nar, self, time.Now()).swarm
			names := map[*partialPeer]peer.ID{nil: self}
			for _, id := range ids {
				if id != self {
					c.offer(id, false, time.Now())
					names[c.members[id]] = id
				}
			}
			owners[names[c.assignee(i, blocks)]] = true
		}
		if len(owners) != 1 {
			t.Fatalf("block %d has owners %v", i, owners)
		}
		for id := range owners {
			owned[id]++
		}
	}
	for _, id := range ids {
		if n := owned[id]; n < blocks/len(ids)*2/3 || n > blocks/len(ids)*4/3 {
			t.Errorf("%s owns %d of %d blocks: not fair among %d", id, n, blocks, len(ids))
		}
	}
}

// waitedFor returns how long a holder that takes 10 ms for a block leaves the blocks to a crowd that passes one on each
// pace, and takes in a new member each time; a minute is for ever.
func waitedFor(pace time.Duration) (waited time.Duration) {
	c := newPicker(1, store.Hash{1}, "self", time.Now()).swarm
	start := time.Now()
	for next := start.Add(pace); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
		if !c.keepsUp(10*time.Millisecond, time.Now()) {
			break
		}
		if !time.Now().Before(next) {
			c.last, next = time.Now(), next.Add(pace)
			c.passed++
			c.offer(peer.ID(next.String()), false, time.Now())
		}
	}
	return time.Since(start)
}

func TestASwarmIsWaitedForWhileItKeepsUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pace        time.Duration
		least, most time.Duration
	}{
		{15 * time.Millisecond, time.Minute, time.Hour}, // two thirds of the holder's pace
		{50 * time.Millisecond, 0, time.Second},         // a fifth
		{500 * time.Millisecond, 0, time.Second},
		{time.Hour, 0, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			if got := waitedFor(c.pace); got < c.least || got > c.most {
				t.Errorf("a crowd that passes on a block each %s is waited for %s, want %s to %s", c.pace, got, c.least, c.most)
			}
		})
	}
}
