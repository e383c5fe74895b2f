package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// stateCheck is the time between two checks that the state exists, in case the kernel does not report its loss.
const stateCheck = time.Minute

// lostFile returns a channel that is closed when a file is deleted or moved away, or is not there. If that cannot be
// watched, it is nil.
func lostFile(ctx context.Context, name string) <-chan struct{} {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	watch, lost := os.NewFile(uintptr(fd), "inotify"), make(chan struct{})
	_, err = unix.InotifyAddWatch(fd, name, unix.IN_DELETE_SELF|unix.IN_MOVE_SELF)
	if err != nil {
		watch.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		close(lost)
		return lost
	}
	stop := context.AfterFunc(ctx, func() { watch.Close() })
	go func() {
		defer close(lost)
		defer stop()
		defer watch.Close()
		_, _ = watch.Read(make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1)) // whatever ends it is worth a look
	}()
	return lost
}
