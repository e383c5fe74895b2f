package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	tempPattern = ".narbor-*" // of files that are being written
	// tempAge is after how long such a file is left over from a crash: writing one takes milliseconds.
	tempAge = time.Hour
)

// A replacer replaces files as a whole: a reader, and a machine that loses power at any moment, finds either the old
// file or the new one.
type replacer struct {
	sync   func(*os.File) error // of the new file, and afterwards of the directory that has its name
	rename func(from, to string) error
}

func newReplacer() replacer { return replacer{sync: (*os.File).Sync, rename: os.Rename} }

// write makes a file of narbor's own. Its directory is made, too.
func (r replacer) write(file string, text []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return r.put(file, text, func(f *os.File) error { return f.Chmod(mode) })
}

// replace gives a regular file that was as old says another text. It keeps mode, owner, group and extended attributes,
// or fails. It also fails if the file has changed since old, or has further names, which would go on with the old text.
func (r replacer) replace(file string, text []byte, old fs.FileInfo) error {
	owner, known := old.Sys().(*syscall.Stat_t)
	switch {
	case !old.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", file)
	case known && owner.Nlink > 1:
		return fmt.Errorf("%s has %d names (hard links): change it by hand", file, owner.Nlink)
	}
	return r.put(file, text, func(f *os.File) error {
		if known {
			if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return fmt.Errorf("%s would get another owner: %w", file, err)
			}
		}
		if err := errors.Join(f.Chmod(old.Mode().Perm()), copyAttributes(file, f)); err != nil {
			return err
		}
		if now, err := os.Lstat(file); err != nil || !os.SameFile(now, old) || !now.ModTime().Equal(old.ModTime()) {
			return fmt.Errorf("%s was changed by another program at this moment: try again", file)
		}
		return nil
	})
}

// put writes a temporary file beside file, and renames it.
func (r replacer) put(file string, text []byte, prepare func(*os.File) error) (err error) {
	dir := filepath.Dir(file)
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
	if err := r.rename(f.Name(), file); err != nil {
		return err
	}
	return r.syncDir(dir)
}

// syncDir makes a rename last. The file has its new text already, so what a file system cannot do is no error.
func (r replacer) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	_ = r.sync(d)
	return nil
}

// removeLeftovers deletes temporary files of a narbor that ended while it wrote one.
func removeLeftovers(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, tempPattern))
	for _, name := range names {
		if st, err := os.Lstat(name); err == nil && st.Mode().IsRegular() && time.Since(st.ModTime()) > tempAge {
			_ = os.Remove(name)
		}
	}
}
