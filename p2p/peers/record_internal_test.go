package peers

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

var errLied = errors.New("lied")

func TestThirdStrikeBans(t *testing.T) {
	r, id := newRecord(), p2ptest.NewPeer(t)
	banned := someTime.Add(banTime)
	for i, c := range []struct {
		after   time.Duration
		strikes int64 // 0: it does not count
		until   time.Time
	}{
		{0, 1, time.Time{}},
		{0, 2, time.Time{}},
		{0, 3, banned},
		{0, 0, time.Time{}},
		{banTime - 1, 0, time.Time{}},
		{banTime, 1, time.Time{}},
		{banTime, 2, time.Time{}},
		{banTime, 3, banned.Add(banTime)},
	} {
		now := someTime.Add(c.after)
		if strikes, until := r.strike(id, errLied, now); strikes != c.strikes || !until.Equal(c.until) {
			t.Errorf("lie %d: strike = %d, %v, want %d, %v", i+1, strikes, until, c.strikes, c.until)
		}
		if got, want := r.denied.denies(id, now), c.strikes == 3 || c.strikes == 0; got != want {
			t.Errorf("after lie %d it is refused: %v, want %v", i+1, got, want)
		}
	}
	if got := r.counts.bans[refusedFormat]; got != 2 {
		t.Errorf("%d bans are counted, want 2", got)
	}
}

func TestStrikesDoNotEndABlock(t *testing.T) {
	r, id := newRecord(), p2ptest.NewPeer(t)
	if err := r.denied.block(id); err != nil {
		t.Fatal(err)
	}
	for range maxStrikes {
		r.strike(id, errLied, someTime)
	}
	if !r.denied.denies(id, someTime.AddDate(100, 0, 0)) {
		t.Error("the ban has replaced the block of the user")
	}
}

// Whatever a peer did, its ban is counted under one of a few words.
func TestBansAreCountedByReason(t *testing.T) {
	for lie, want := range map[error]string{
		fmt.Errorf("x: %w", trust.ErrForged):      refusedSignature,
		fmt.Errorf("x: %w", store.ErrCorrupt):     refusedHash,
		fmt.Errorf("x: %w", ErrName):              refusedName,
		fmt.Errorf("x: %w", ErrProbing):           refusedProbing,
		fmt.Errorf("x: %w", wire.ErrWire):         refusedFormat,
		errors.New("something, in its own words"): refusedFormat,
	} {
		r := newRecord()
		for range maxStrikes {
			r.strike("p", lie, someTime)
		}
		if got := r.counts.bans; got[want] != 1 || len(got) != len(newCounts().bans) {
			t.Errorf("after a ban for %q the counts are %v, want one for %s", lie, got, want)
		}
	}
}

func TestReasonsOfStrikesAreBounded(t *testing.T) {
	r := newRecord()
	for range maxStrikes {
		r.strike("p", errors.New(strings.Repeat("lies ", 10_000)), someTime)
	}
	if got := r.denied.bans(someTime); len(got) != 1 || len(got[0].Reason) > maxReason {
		t.Errorf("bans are %.999v, want one with a reason of at most %d bytes", got, maxReason)
	}
}

// Of a peer that sends wrong NARs, only those of other paths than before count.
func TestWrongNARsSetAPeerAside(t *testing.T) {
	s := trusttest.NewSigner(t)
	r := newRecord()
	bad := r.tally("bad")
	_, fresh := s.SignSize(t, "fresh", 100)
	for i := range maxWrong {
		_, m := s.SignSize(t, fmt.Sprint(i), 100)
		news, until := r.sentWrong(bad.ID, m, someTime)
		if want := i == maxWrong-1; !news || !until.IsZero() != want {
			t.Errorf("wrong NAR %d: sentWrong = %v, %v, want news, and set aside: %v", i+1, news, until, want)
		}
		if news, until := r.sentWrong(bad.ID, m, someTime.Add(wrongFor-1)); news || !until.IsZero() {
			t.Errorf("wrong NAR %d again: sentWrong = %v, %v, want no news", i+1, news, until)
		}
		if got, want := r.takesFrom(bad, fresh, someTime), i < maxWrong-1; got != want || r.takesFrom(bad, m, someTime) {
			t.Errorf("after wrong NAR %d, others are taken: %v, want %v; that one: %v", i+1, got, want, !got)
		}
	}
	if why := r.unreliable(pairOf(bad, fresh), bad, someTime); !strings.Contains(why, asideWrong) {
		t.Errorf("its claims are unreliable because %q", why)
	}
	if end := someTime.Add(asideTime); !r.takesFrom(bad, fresh, end) || r.unreliable(pairOf(bad, fresh), bad, end) != "" {
		t.Error("it is set aside for more than its time")
	}
}

func TestSlowPeerIsUnreliableAndGivesBlocks(t *testing.T) {
	_, m := trusttest.NewSigner(t).SignSize(t, "path", 100)
	r := newRecord()
	slow := r.tally("slow")
	slow.WasSlow(someTime)
	if why := r.unreliable(pairOf(slow, m), slow, someTime); !strings.Contains(why, asideSlow) || !r.takesFrom(slow, m, someTime) {
		t.Errorf("its claim is unreliable because %q; its blocks are taken: %v", why, r.takesFrom(slow, m, someTime))
	}
}

func TestAvoidedNARsAreBoundedAndForgotten(t *testing.T) {
	a := newAvoided()
	for i := range maxAvoided + 10 {
		a.add(pair{nar: store.Hash{byte(i), byte(i >> 8)}}, "x", someTime, wrongFor)
	}
	if got := a.pairs.Len(); got != maxAvoided {
		t.Errorf("%d pairs are remembered, want %d", got, maxAvoided)
	}
	last := pair{nar: store.Hash{100}}
	a.add(last, "y", someTime, time.Minute) // does not shorten it
	if end := someTime.Add(wrongFor); a.why(last, end.Add(-1)) != "x" || a.why(last, end) != "" {
		t.Errorf("before the end it is avoided because %q, at the end because %q", a.why(last, end.Add(-1)), a.why(last, end))
	}
}

func TestMismatchesAreBoundedAndForgotten(t *testing.T) {
	here, there := trusttest.NewSigner(t), trusttest.NewSigner(t)
	info, _ := there.SignSize(t, "path", 100)
	m := mismatches{}
	for i := range maxMismatched + 10 {
		m.note(here.Keys, peer.ID(fmt.Sprint("peer ", i)), info, someTime)
	}
	got := m.current(here.Keys, someTime.Add(mismatchTime))
	if len(got) != 1 || got[0].Key != "upstream-1" || len(got[0].Neighbours) != maxMismatched {
		t.Errorf("%d mismatches, want one of upstream-1 with %d neighbours: %+v", len(got), maxMismatched, got)
	}
	if got := m.current(here.Keys, someTime.Add(mismatchTime+1)); len(got) != 0 {
		t.Errorf("after %v there are %+v, want none", mismatchTime, got)
	}
}

func TestMemoryOfPeersIsBounded(t *testing.T) {
	r := newRecord()
	for i := range 2 * MaxTallies {
		r.tally(peer.ID(fmt.Sprint(i)))
	}
	if got := r.tallies.Len(); got > MaxTallies {
		t.Errorf("%d peers are remembered, want at most %d", got, MaxTallies)
	}
}
