package netmon

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// sleepMin is how long nothing may have run, give or take a clockTick, before that counts as sleep. Connections
	// outlive less, and a busy machine may well stall for a second or two.
	sleepMin = 4 * time.Second
	// stepMin is by how much the wall clock must be set before that is worth a word: less is what a radio or the
	// network corrects now and then.
	stepMin = time.Minute
)

// A reading has the times of the clocks at one moment.
type reading struct {
	wall time.Time     // without a monotonic part
	mono time.Duration // stands still while the machine sleeps, but not while the process is stopped
	boot time.Duration // never stands still; 0 where the system has no such clock
}

func readClocks(start time.Time) reading {
	now := time.Now()
	return reading{wall: now.Round(0), mono: now.Sub(start), boot: bootClock()}
}

// since returns for how long, between two ticks, nothing has run; and by how much the wall clock was set. Both are 0 if
// it is not worth a word.
func (r reading) since(last reading) (slept, set time.Duration) {
	ran := r.mono - last.mono
	passed := ran
	if r.boot != 0 {
		passed = max(passed, r.boot-last.boot)
	}
	set = r.wall.Sub(last.wall) - passed
	if r.boot == 0 && set > 0 { // the wall clock alone knows of sleep
		passed, set = passed+set, 0
	}
	if slept = passed - min(ran, clockTick); slept < sleepMin {
		slept = 0
	}
	if set.Abs() < stepMin {
		set = 0
	}
	return slept, set
}

// WatchClocks calls changed whenever this machine or this process has slept, or its clock was set, until ctx ends. For
// a virtual machine that was moved or restored there is no other sign.
func WatchClocks(ctx context.Context, log *zap.Logger, changed func()) error {
	set := make(chan struct{}, 1)
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { followClock(ctx, log, set) })
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	start := time.Now()
	last := readClocks(start)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-set:
		}
		now := readClocks(start)
		slept, set := now.since(last)
		last = now
		if slept > 0 {
			log.Info("this machine slept; neighbours are looked for again", zap.Duration("dur", slept))
		}
		if set != 0 {
			log.Warn("the clock of this machine was set: what it had logged before has the wrong time", zap.Duration("by", set))
		}
		if slept > 0 || set != 0 {
			changed()
		}
	}
}
