//go:build !linux

package p2p

import "time"

// bootClock is missing: the wall clock tells how long the machine slept.
func bootClock() time.Duration { return 0 }
