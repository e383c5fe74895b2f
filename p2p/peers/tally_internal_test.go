package peers

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/store"
)

func TestSetbacksGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tl Tally
		start := time.Now()
		for i, want := range []time.Duration{0, 0, asideTime, 4 * asideTime, maxAside, maxAside} {
			got := tl.sentWrong(time.Now())
			if want == 0 && !got.IsZero() || want > 0 && got.Sub(start) != want {
				t.Errorf("after wrong NAR %d it is set aside for %v, want %v", i+1, got.Sub(start), want)
			}
		}
		if _, why := tl.Aside(time.Now()); why != asideWrong {
			t.Errorf("it is set aside because it %q", why)
		}
		time.Sleep(wrongFor + time.Minute)
		if until, _ := tl.Aside(time.Now()); !until.IsZero() || tl.CountWrong(time.Now()) != 0 || !tl.sentWrong(time.Now()).IsZero() {
			t.Error("an hour later it is not forgotten")
		}
		var slow Tally
		for _, want := range []time.Duration{BackoffTime, 4 * BackoffTime, 16 * BackoffTime, maxAside} {
			if got := slow.WasSlow(time.Now()); time.Until(got) != want {
				t.Errorf("a slow peer is set aside for %v, want %v", time.Until(got), want)
			}
			if got := slow.WasSlow(time.Now()); !got.IsZero() {
				t.Error("fetches that fail together count more than once")
			}
			time.Sleep(want)
		}
		for range 5 {
			slow.Kept()
		}
		if got := slow.WasSlow(time.Now()); time.Until(got) != BackoffTime {
			t.Errorf("after it has delivered it is set aside for %v, want %v", time.Until(got), BackoffTime)
		}
	})
}

func TestWrongNARsOfASlowPeerAreNotTaken(t *testing.T) {
	var tl Tally
	now := time.Now()
	tl.mu.Lock()
	tl.putAside(now, maxAside, asideSlow)
	tl.mu.Unlock()
	for range maxWrong {
		tl.sentWrong(now)
	}
	if _, why := tl.Aside(now); why != asideWrong {
		t.Errorf("it is set aside because it %q, want because of its wrong NARs", why)
	}
}

func TestAvoidedNARsAreBoundedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAvoided()
		for i := range maxAvoided + 10 {
			a.add(pair{nar: store.Hash{byte(i), byte(i >> 8)}}, wrongFor, "x")
		}
		if got := a.pairs.Len(); got != maxAvoided {
			t.Errorf("%d pairs are remembered, want %d", got, maxAvoided)
		}
		last := pair{nar: store.Hash{1}}
		a.add(last, time.Minute, "x")
		if a.why(last) != "x" || a.add(last, time.Minute, "x") {
			t.Error("a pair is not avoided")
		}
		time.Sleep(time.Hour + time.Second)
		if a.why(last) != "" {
			t.Error("a pair is avoided for ever")
		}
	})
}

func TestProxyBackoffGrows(t *testing.T) {
	now := time.Unix(1e9, 0)
	ta := &Tally{ID: peer.ID("p")}
	for i, want := range []time.Duration{time.Minute, 4 * time.Minute, 16 * time.Minute, time.Hour, time.Hour} {
		ta.BackOff(now)
		ta.BackOff(now.Add(time.Second)) // another NAR of the same time
		if !ta.inBackoff(now.Add(want - 1)) {
			t.Errorf("after %d failures it is asked again within %s", i+1, want)
		}
		if now = now.Add(want); ta.inBackoff(now) {
			t.Errorf("after %d failures it is left out for more than %s", i+1, want)
		}
	}
	now = now.Add(maxBackoff + 1)
	if ta.BackOff(now); ta.inBackoff(now.Add(BackoffTime)) {
		t.Error("what was long ago still counts")
	}
}

func TestMemoryOfPeersIsBounded(t *testing.T) {
	l := NewLedger("", zap.NewNop())
	for i := range 2 * MaxTallies {
		l.TallyOf(peer.ID(fmt.Sprint(i)))
	}
	if got := l.tallies.Len(); got > MaxTallies {
		t.Errorf("%d peers are remembered, want at most %d", got, MaxTallies)
	}
}
