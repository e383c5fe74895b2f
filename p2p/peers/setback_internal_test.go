package peers

import (
	"testing"
	"time"
)

// someTime is a time at which something happens in a test.
var someTime = time.Unix(1e9, 0)

func TestSetbacksGrowAndEnd(t *testing.T) {
	var s setback
	for i, want := range []time.Duration{0, 0, asideTime, 4 * asideTime, maxAside, maxAside} {
		got := s.sentWrong(someTime)
		if want == 0 && !got.IsZero() || want > 0 && got.Sub(someTime) != want {
			t.Errorf("after wrong NAR %d it is set aside for %v, want %v", i+1, got.Sub(someTime), want)
		}
	}
	if _, why := s.aside(someTime.Add(maxAside - 1)); why != asideWrong {
		t.Errorf("it is set aside because it %q", why)
	}
	later := someTime.Add(wrongFor)
	if until, _ := s.aside(later); !until.IsZero() || len(s.recent(later)) != 0 || !s.sentWrong(later).IsZero() {
		t.Error("an hour later it is not forgotten")
	}
}

func TestSlowPeerIsSetAsideForLongerEachTime(t *testing.T) {
	var s setback
	now := someTime
	for _, want := range []time.Duration{BackoffTime, 4 * BackoffTime, 16 * BackoffTime, maxAside} {
		if got := s.wasSlow(now).Sub(now); got != want {
			t.Errorf("a slow peer is set aside for %v, want %v", got, want)
		}
		if got := s.wasSlow(now); !got.IsZero() {
			t.Error("fetches that fail together count more than once")
		}
		now = now.Add(want)
	}
	for range 5 {
		s.kept()
	}
	if got := s.wasSlow(now).Sub(now); got != BackoffTime {
		t.Errorf("after it has delivered it is set aside for %v, want %v", got, BackoffTime)
	}
}

func TestSecondTardyNARSetsAside(t *testing.T) {
	for name, c := range map[string]struct {
		began, came time.Duration // of the second NAR, after the first came
		aside       bool
	}{
		"begun before the first came": {-time.Second, time.Minute, false},
		"begun after it":              {time.Second, time.Minute, true},
		"long after it":               {time.Second, SlowFor, false},
	} {
		var s setback
		if until := s.wasTardy(someTime.Add(-time.Minute), someTime); !until.IsZero() {
			t.Errorf("%s: the first sets it aside until %v", name, until)
		}
		if until := s.wasTardy(someTime.Add(c.began), someTime.Add(c.came)); until.IsZero() == c.aside {
			t.Errorf("%s: set aside until %v, want it set aside: %v", name, until, c.aside)
		}
	}
}

func TestWrongNARsOfASlowPeerAreNotTaken(t *testing.T) {
	var s setback
	s.putAside(someTime, maxAside, asideSlow)
	for range maxWrong {
		s.sentWrong(someTime)
	}
	if _, why := s.aside(someTime); why != asideWrong {
		t.Errorf("it is set aside because it %q, want because of its wrong NARs", why)
	}
}
