package p2p

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock returns the time since the machine started, with what it slept, or 0.
func bootClock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
