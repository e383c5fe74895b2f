package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// fallocate makes an empty file size bytes long, and sets its blocks aside.
func fallocate(f *os.File, size int64) error {
	return retryEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
}
