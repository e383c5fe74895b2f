package lan

import (
	"os"
	"strconv"
	"time"
)

// AtMost is the deadline of a wait in a test: d times NARBOR_SLOW, as integration/check does with the timeouts of
// packages.
func AtMost(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv("NARBOR_SLOW"))
	if err != nil || factor < 1 {
		return d
	}
	return time.Duration(factor) * d
}
