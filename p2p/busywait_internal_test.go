package p2p

import (
	"testing"
	"time"
)

func TestWaitsForBusyNeighboursAreBounded(t *testing.T) {
	var b busyWait
	now := time.Now()
	for i := range 16 { // at the same time
		b.lose(now, now.Add(time.Second/16*time.Duration(i+1)), false)
	}
	now = now.Add(time.Second)
	if left := b.left(now); left < maxBusyWait-time.Second || left > maxBusyWait-time.Second+time.Second/busyWaitRefill {
		t.Errorf("after 16 waits of up to 1 s at the same time %v are left, want all but 1 s", left)
	}
	now = now.Add(maxBusyWait)
	b.lose(now.Add(-maxBusyWait), now, false)
	if b.allows(now) {
		t.Errorf("after 3 s that were lost another wait is allowed, want %v in all", maxBusyWait)
	}
	now = now.Add(busyWaitRefill * 3 * time.Second)
	if left := b.left(now); left != maxBusyWait {
		t.Errorf("after a long time %v are left, want all", left)
	}
	b.lose(now.Add(-time.Second), now, true)
	if left := b.left(now); left != maxBusyWait-time.Second/4 {
		t.Errorf("after 1 s in which a path was found %v are left, want all but a quarter of it", left)
	}
}
