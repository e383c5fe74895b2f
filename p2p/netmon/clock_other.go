//go:build !linux

package netmon

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// clockTick is how often the clocks are compared.
const clockTick = 2 * time.Second

// bootClock is missing: the wall clock tells how long the machine slept.
func bootClock() time.Duration { return 0 }

// followClock is told nothing: the clocks are compared often enough.
func followClock(context.Context, *zap.Logger, chan<- struct{}) {}
