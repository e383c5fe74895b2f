package spool

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	lockName   = "lock"
	partSuffix = ".part" // being received
	narSuffix  = ".nar"  // verified
)

// takeDir opens a directory for this process alone, and clears it.
func takeDir(dir string) (_ *os.Root, _ *os.File, err error) {
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	if err = root.Chmod(".", 0o700); err != nil {
		return nil, nil, err
	}
	lock, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil, errors.New("another narbor uses it; give this one a state directory of its own")
	} else if err != nil {
		return nil, nil, fmt.Errorf("lock: %w", err)
	}
	return root, lock, clean(root)
}

// clean deletes every file that a spool may have made. Others are left alone, lest a wrong path cost someone's data.
func clean(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, partSuffix) || strings.HasSuffix(name, narSuffix) {
			if err := root.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
