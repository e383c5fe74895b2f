package circle

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

const fileName = "circle.json"

var errExists = errors.New("this machine is in a circle already: see `narbor circle show`; `narbor circle leave` ends that")

// File returns the path of the circle's file in a state directory.
func File(dir string) string { return filepath.Join(dir, fileName) }

// Load returns the circle that a state directory has, and nil if it has none.
func Load(dir string) (*Circle, error) {
	owners := []int{os.Geteuid(), 0}
	if st, err := os.Stat(dir); err == nil && os.Geteuid() == 0 {
		owners = append(owners, ownerOf(st)) // the service
	}
	c, err := read(File(dir), owners)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// caller returns the user that has called sudo; ok is false if there is none.
func caller() (id int, ok bool) {
	id, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	return id, err == nil && id > 0 && os.Geteuid() == 0
}

// ReadInvitation reads the file for other members. It must belong to this user, or to the one that has called sudo.
func ReadInvitation(file string) (Circle, error) {
	owners := []int{os.Geteuid()}
	if id, ok := caller(); ok {
		owners = append(owners, id)
	}
	c, err := read(file, owners)
	if err == nil && c.SigningKey != "" {
		err = fmt.Errorf("%s is the state of the machine that signs: give the file that `narbor circle init` has written there", file)
	}
	return c, err
}

// read reads a circle from a regular file that one of the owners has, and only they may read. It neither follows a link
// nor waits for a writer.
func read(file string, owners []int) (c Circle, err error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return c, fmt.Errorf("%s is a symbolic link: give the file itself", file)
	}
	if err != nil {
		return c, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return c, err
	}
	switch mode := st.Mode(); {
	case !mode.IsRegular():
		return c, fmt.Errorf("%s is not a regular file", file)
	case mode.Perm()&0o077 != 0:
		return c, fmt.Errorf("%s is open to other users (mode %04o), and has a secret: chmod 600 %[1]s", file, mode.Perm())
	case !slices.Contains(owners, ownerOf(st)):
		return c, fmt.Errorf("%s belongs to another user (%d), which could change it: chown %d %[1]s", file, ownerOf(st), os.Geteuid())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return c, err
	}
	if len(text) > maxFile {
		return c, fmt.Errorf("%s is longer than %d bytes: no file of a circle is", file, maxFile)
	}
	if c, err = parse(text); err != nil {
		return c, fmt.Errorf("%s %w", file, err)
	}
	return c, nil
}

func ownerOf(st fs.FileInfo) int {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(sys.Uid)
	}
	return -1
}

// Save writes a circle into a state directory. If there is one, it is replaced or it is an error. The file belongs to
// the owner of the directory, which is narbor's user. That user could have put links into the directory to make root
// write elsewhere, so nothing is followed out of it.
func (c Circle) Save(dir string, replace bool) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	temp := ".circle-" + rand.Text()
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if gone := root.Remove(temp); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	if err := errors.Join(fill(f, c.text()), giveToOwner(root, f), f.Close()); err != nil {
		return err
	}
	if replace {
		return root.Rename(temp, fileName)
	}
	if err = root.Link(temp, fileName); errors.Is(err, fs.ErrExist) {
		err = errExists
	}
	return err
}

// fill writes a file that was made for that, so that it lasts.
func fill(f *os.File, text []byte) error {
	_, err := f.Write(text)
	return errors.Join(err, f.Chmod(0o600), f.Sync())
}

func giveToOwner(root *os.Root, f *os.File) error {
	st, err := root.Stat(".")
	if err != nil || ownerOf(st) == os.Geteuid() {
		return err
	}
	return f.Chown(ownerOf(st), -1)
}

// Remove ends the circle of a state directory.
func Remove(dir string) error { return os.Remove(File(dir)) }

// WriteInvitation writes the file for other members. It replaces nothing. The file belongs to the user that has called
// sudo, if there is one, since that user takes it to the others.
func (c Circle) WriteInvitation(file string) error {
	owner, ok := caller()
	if !ok {
		owner = -1
	}
	return create(file, c.Invitation().text(), owner)
}

// MakeKey makes a key for a circle, writes the secret part to a file that must not exist, and adds the public part to
// the circle in the place of all others.
func (c *Circle) MakeKey(file string) error {
	secret, public, err := newKey(c.NextKeyName())
	if err != nil {
		return err
	}
	if err := create(file, secret, -1); err != nil {
		return err
	}
	c.Keys, c.SigningKey = []string{public}, file
	return nil
}

// create makes a file that only its owner may read; -1 is this user.
func create(file string, text []byte, owner int) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and is not replaced: delete it, or give another", file)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, text), f.Chown(owner, -1), f.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}
