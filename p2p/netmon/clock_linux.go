package netmon

import (
	"context"
	"errors"
	"math"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// clockTick is how often the clocks are compared, to notice that this process was stopped for longer than that. Of all
// else the kernel gives word, and connections outlive a stop, for the kernel answers for the process. A machine at
// rest is woken up no more than it must be, and libp2p looks at its connections as often, at the same moment.
const clockTick = 30 * time.Second

// bootClock returns the time since the machine started, with what it slept, or 0.
func bootClock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// followClock gives a hint whenever the wall clock is set, which the kernel also does when the machine wakes up, until
// ctx ends.
func followClock(ctx context.Context, log *zap.Logger, hints chan<- struct{}) {
	if err := readTimer(ctx, hints); err != nil && ctx.Err() == nil {
		log.Debug("the kernel does not say when the clock is set", zap.Error(err))
	}
}

// readTimer has a timer that never goes off, but is cancelled when the clock is set.
func readTimer(ctx context.Context, hints chan<- struct{}) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return err
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { timer.Close() })()
	never := unix.ItimerSpec{Value: unix.NsecToTimespec(math.MaxInt64)}
	for {
		// Both calls fail with ECANCELED if the clock has been set meanwhile.
		err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
		if err == nil {
			_, err = timer.Read(make([]byte, 8))
		}
		if !errors.Is(err, unix.ECANCELED) {
			return err
		}
		Hint(hints)
	}
}
