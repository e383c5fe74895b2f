//go:build !linux

package p2p

import "errors"

// deliveryRate is known on Linux only; elsewhere blocks are sent as they are.
func deliveryRate(int) (int64, error) { return 0, errors.ErrUnsupported }
