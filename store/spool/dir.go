package spool

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// takeSpool opens a directory for this process alone, and clears it.
func takeSpool(dir string) (_ *os.Root, _ *os.File, err error) {
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

// Renew makes the directory anew if it was deleted. NARs that are open or being received stay usable: their files have
// lost their names and nothing else.
func (s *Spool) Renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	was, err := s.root.Stat(".")
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.dir, err)
	}
	if is, err := os.Stat(s.dir); err == nil && os.SameFile(was, is) {
		return nil
	}
	root, lock, err := takeSpool(s.dir)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.dir, err)
	}
	err = errors.Join(s.lock.Close(), s.root.Close())
	s.root, s.lock = root, lock
	return err
}

// place returns the directory and the file in it that is locked.
func (s *Spool) place() (*os.Root, *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.root, s.lock
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
