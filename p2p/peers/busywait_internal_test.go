package peers

import (
	"testing"
	"time"
)

func TestWaitsForBusyNeighboursAreBounded(t *testing.T) {
	var b BusyWait
	now := time.Now()
	for i := range 16 { // at the same time
		b.Lose(now, now.Add(time.Second/16*time.Duration(i+1)), false)
	}
	now = now.Add(time.Second)
	if left := b.left(now); left < MaxBusyWait-time.Second || left > MaxBusyWait-time.Second+time.Second/busyWaitRefill {
		t.Errorf("after 16 waits of up to 1 s at the same time %v are left, want all but 1 s", left)
	}
	now = now.Add(MaxBusyWait)
	b.Lose(now.Add(-MaxBusyWait), now, false)
	if b.Allows(now) {
		t.Errorf("after 3 s that were lost another wait is allowed, want %v in all", MaxBusyWait)
	}
	now = now.Add(busyWaitRefill * 3 * time.Second)
	if left := b.left(now); left != MaxBusyWait {
		t.Errorf("after a long time %v are left, want all", left)
	}
	b.Lose(now.Add(-time.Second), now, true)
	if left := b.left(now); left != MaxBusyWait-time.Second/4 {
		t.Errorf("after 1 s in which a path was found %v are left, want all but a quarter of it", left)
	}
}
