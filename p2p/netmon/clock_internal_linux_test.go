package netmon

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// The clocks are not polled: the kernel reports that the wall clock was set, or the machine was asleep.
// The clock is set without a pause, so that it is set at each moment of the loop too.
func TestClockThatIsSetAgainAndAgainIsFollowed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hints, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() { ended <- readTimer(ctx, hints) }()
	for range 20000 {
		if _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Usec: 1}}); err != nil {
			t.Skip("the clock of this machine cannot be set:", err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the clock is not followed any more: %v", err)
	default:
	}
	cancel()
}

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
