package spool

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

type directory struct {
	root *os.Root
	lock *os.File // holds the flock; its file system is the spool's
}

// takeDir opens a directory for this process alone.
func takeDir(dir string) (_ directory, err error) {
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return directory{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return directory{}, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	if err = root.Chmod(".", 0o700); err != nil {
		return directory{}, err
	}
	lock, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return directory{}, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return directory{}, errors.New("another narbor uses it; give this one a state directory of its own")
	} else if err != nil {
		return directory{}, fmt.Errorf("lock: %w", err)
	}
	return directory{root, lock}, nil
}

// ours returns the names of the files that a spool may have made. Others are left alone, so that a
// directory that was named by mistake loses nothing.
func ours(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, narSuffix) }), err
}

func (d directory) close() error { return errors.Join(d.lock.Close(), d.root.Close()) }
