package doctor

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime returns when the machine, or this container of it, was started; zero is unknown.
func bootTime() time.Time {
	var since unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &since) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(since.Nano()))
}
