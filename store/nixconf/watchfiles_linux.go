package nixconf

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A fileWatch has the kernel say when one of some files, or a link or a directory on the way to one, comes, goes or changes.
type fileWatch struct {
	fd    int
	names map[int32]map[string]bool // names of interest in each watched directory
}

// watchFiles returns a channel that is closed when one of the files may have changed, or the context has ended; the
// watches end then. It returns nil if the kernel cannot watch the files.
func watchFiles(ctx context.Context, files []string) <-chan struct{} {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := fileWatch{fd, make(map[int32]map[string]bool)}
	for _, file := range files {
		if err := w.add(file); err != nil {
			unix.Close(fd)
			return nil
		}
	}
	events, changed := os.NewFile(uintptr(fd), "inotify"), make(chan struct{})
	stop := context.AfterFunc(ctx, func() { events.Close() })
	go func() { // ends with ctx, or before
		defer close(changed)
		defer stop()
		defer events.Close()
		buf := make([]byte, 16*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
		for {
			n, err := events.Read(buf)
			if err != nil || w.interesting(buf[:n]) {
				return
			}
		}
	}()
	return changed
}

// add watches all directories on the way to a file, as far as there are any.
func (w fileWatch) add(file string) error {
	dir, rest := "/", strings.Split(filepath.Clean(file), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = filepath.Dir(dir)
			continue
		}
		wd, err := unix.InotifyAddWatch(w.fd, dir,
			unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE|unix.IN_CLOSE_WRITE|unix.IN_ATTRIB|unix.IN_ONLYDIR)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.EACCES {
			return nil // it is gone meanwhile, or is none of our business
		}
		if err != nil {
			return err
		}
		if w.names[int32(wd)] == nil {
			w.names[int32(wd)] = make(map[string]bool)
		}
		w.names[int32(wd)][name] = true
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil { // no link, or nothing yet
			dir = filepath.Join(dir, name)
			continue
		}
		if links++; links > maxLinks {
			return nil
		}
		if filepath.IsAbs(target) {
			dir = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil
}

// interesting reports whether one of the events is about something on the way to a file.
func (w fileWatch) interesting(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&events[0]))
		end := unix.SizeofInotifyEvent + int(e.Len)
		if end > len(events) || e.Mask&(unix.IN_Q_OVERFLOW|unix.IN_IGNORED) != 0 {
			return true
		}
		if w.names[e.Wd][string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))] {
			return true
		}
		events = events[end:]
	}
	return false
}
