package netmon

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// The clocks are not polled: the kernel reports that the wall clock was set, or the machine was asleep.
func TestSettingTheClockIsNoticedAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hints, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		followClock(ctx, zap.NewNop(), hints)
	}()
	for range 2 {
		for began := time.Now(); ; {
			// By a nanosecond, again until the timer is there.
			if _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Usec: 1}}); err != nil {
				t.Skip("the clock of this machine cannot be set:", err)
			}
			select {
			case <-hints:
			case <-time.After(50 * time.Millisecond):
				if time.Since(began) < 20*time.Second {
					continue
				}
				t.Error("no hint within 20 s")
			}
			break
		}
	}
	cancel()
	<-ended
}
