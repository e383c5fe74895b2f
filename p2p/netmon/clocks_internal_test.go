package netmon

import (
	"testing"
	"time"
)

func TestClocksTellSleepFromSetting(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s := time.Second
	for _, c := range []struct {
		name             string
		wall, mono, boot time.Duration // that have passed
		slept, set       time.Duration
	}{
		{"a tick", s, s, s, 0, 0},
		{"a busy machine", 3 * s, 3 * s, 3 * s, 0, 0},
		{"stopped", 60*s + clockTick, 60*s + clockTick, 60*s + clockTick, 60 * s, 0},
		{"suspended", 3600 * s, s, 3600 * s, 3599 * s, 0},
		{"suspended, and no clock but the wall's tells", 3600 * s, s, 0, 3599 * s, 0},
		{"set by ten years", 87600 * time.Hour, s, s, 0, 87600*time.Hour - s},
		{"set back by ten years", -87600 * time.Hour, s, s, 0, -87600*time.Hour - s},
		{"set back, and there is no boot clock", -time.Hour, s, 0, 0, -time.Hour - s},
		{"slewed", 2 * s, s, s, 0, 0},
		{"suspended and set", 7200 * s, s, 3600 * s, 3599 * s, 3600 * s},
	} {
		last := reading{wall: noon, mono: time.Hour, boot: 2 * time.Hour}
		now := reading{wall: noon.Add(c.wall), mono: time.Hour + c.mono, boot: 2*time.Hour + c.boot}
		if c.boot == 0 {
			last.boot, now.boot = 0, 0
		}
		if slept, set := now.since(last); slept != c.slept || set != c.set {
			t.Errorf("%s: slept %v, set by %v, want %v and %v", c.name, slept, set, c.slept, c.set)
		}
	}
}
