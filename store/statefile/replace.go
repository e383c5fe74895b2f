// Package statefile reads and replaces small files so that a crash leaves either the old or the new one: narbor's own,
// and nix.conf; git's refs are read with it, too. It keeps no state: its functions may be called concurrently, for
// different files.
package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	tempPattern = ".narbor-*" // of files that are being written
	// tempAge is after how long such a file is left over from a crash: writing one takes milliseconds.
	tempAge = time.Hour
)

// Replace makes a file, or replaces it as a whole: a reader, and a machine that loses power at any moment, finds
// either the old file or the new one.
func Replace(name string, text []byte, mode fs.FileMode) error {
	return newReplacer().put(name, text, func(f *os.File) error { return f.Chmod(mode) })
}

// Rewrite replaces a regular file, as [Replace] does, that was as old says. It keeps mode, owner, group and
// extended attributes, or fails. It also fails if the file has changed since old, or has further names, which would go
// on with the old text.
func Rewrite(name string, text []byte, old fs.FileInfo) error {
	return newReplacer().rewrite(name, text, old)
}

// A replacer has the steps that tests watch.
type replacer struct {
	sync   func(*os.File) error // of the new file, and afterwards of the directory that has its name
	rename func(from, to string) error
}

func newReplacer() replacer { return replacer{sync: (*os.File).Sync, rename: os.Rename} }

func (r replacer) rewrite(name string, text []byte, old fs.FileInfo) error {
	owner, known := old.Sys().(*syscall.Stat_t)
	switch {
	case !old.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", name)
	case known && owner.Nlink > 1:
		return fmt.Errorf("%s has %d names (hard links): change it by hand", name, owner.Nlink)
	}
	return r.put(name, text, func(f *os.File) error {
		if known {
			if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return fmt.Errorf("%s would get another owner: %w", name, err)
			}
		}
		if err := errors.Join(f.Chmod(old.Mode().Perm()), copyAttributes(name, f)); err != nil {
			return err
		}
		if now, err := os.Lstat(name); err != nil || !os.SameFile(now, old) || !now.ModTime().Equal(old.ModTime()) {
			return fmt.Errorf("%s was changed by another program at this moment: try again", name)
		}
		return nil
	})
}

// put writes a temporary file beside the named one, and renames it.
func (r replacer) put(name string, text []byte, prepare func(*os.File) error) (err error) {
	dir := filepath.Dir(name)
	removeLeftovers(dir)
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = prepare(f)
	}
	if err == nil {
		err = r.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := r.rename(f.Name(), name); err != nil {
		return err
	}
	r.syncDir(dir)
	return nil
}

// syncDir makes a rename last. The file has its new text already, so what a file system cannot do is no error.
func (r replacer) syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = r.sync(d)
		d.Close()
	}
}

// removeLeftovers deletes temporary files of a narbor that ended while it wrote one.
func removeLeftovers(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, tempPattern))
	for _, name := range names {
		if _, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(name), ".narbor-"), 10, 64); err != nil {
			continue // os.CreateTemp has not named it
		}
		if st, err := os.Lstat(name); err == nil && st.Mode().IsRegular() && time.Since(st.ModTime()) > tempAge {
			_ = os.Remove(name)
		}
	}
}
