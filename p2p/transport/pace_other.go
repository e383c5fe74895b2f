//go:build !linux

package transport

import (
	"errors"
	"time"
)

// deliveryOf is known on Linux only; elsewhere blocks are sent as they are.
func deliveryOf(int) (delivery, error) { return delivery{}, errors.ErrUnsupported }

// sinceAck is known on Linux only.
func sinceAck(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
