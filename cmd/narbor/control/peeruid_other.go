//go:build !linux && !darwin

package control

import (
	"errors"
	"net"
)

// peerUID returns the user ID of the process at the other end.
func peerUID(*net.UnixConn) (uint32, error) { return 0, errors.ErrUnsupported }
