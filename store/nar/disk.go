package nar

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"narbor/store"
)

// ReadFile reads from a NAR that is a file of that size, as [store.NAR] wants it: a file that is shorter is an error.
func ReadFile(f *os.File, p []byte, off, size int64) (int, error) {
	n, err := f.ReadAt(p, off)
	if err == io.EOF && off+int64(n) < size {
		err = fmt.Errorf("%s: %w: shorter than %d bytes", f.Name(), store.ErrCorrupt, size)
	}
	return n, err
}

// UnknownFree is what [FreeBytes] returns for a file system that does not know. Sizes may be added to it.
const UnknownFree = math.MaxInt64 / 2

// FreeBytes returns how many bytes may still be written to the file system of f.
func FreeBytes(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(f.Fd()), &st) }); err != nil {
		return 0, fmt.Errorf("free space: %w", err)
	}
	if st.Blocks == 0 {
		return UnknownFree, nil
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// NoSpace adds [store.ErrNoSpace] to what the kernel says of a full disk or an exhausted quota.
func NoSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	return err
}
