//go:build !linux

package transport

import "errors"

// delivery is known on Linux only; elsewhere blocks are sent as they are.
func delivery(int) (rate, acked int64, idle bool, err error) {
	return 0, 0, false, errors.ErrUnsupported
}
