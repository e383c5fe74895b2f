//go:build !linux

package transport

import (
	"errors"
	"time"
)

// delivery is known on Linux only; elsewhere blocks are sent as they are.
func delivery(int) (rate, acked int64, idle bool, err error) {
	return 0, 0, false, errors.ErrUnsupported
}

// sinceAck is known on Linux only.
func sinceAck(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
