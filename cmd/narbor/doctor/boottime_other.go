//go:build !linux

package doctor

import "time"

// bootTime is needed for what /proc says, and there is none.
func bootTime() time.Time { return time.Time{} }
