package transport

import (
	"errors"

	"golang.org/x/sys/unix"
)

// isForbidden reports whether a vsock socket is refused as if the kernel had none, which it has.
func isForbidden() bool {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.EAFNOSUPPORT)
}
