// Package nar reads Nix's archives: it checks their structure as strictly as the strictest Nix does ([Check]), makes
// them of the files of a store path, at any offset and without a copy ([Tree]), and undoes their compression with
// bounded memory ([Decompress], [UnpackMemory]).
//
// Nothing here computes a NarHash or decides on trust. [Layouts] remember the shapes of the trees that were read last;
// all other state is that of one archive. There is no goroutine. A [Tree] and [Layouts] may be used concurrently, a
// decompressor by one goroutine.
package nar

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"narbor/store"
)

// Limits of the archive format, as newer versions of Nix enforce them when unpacking.
const (
	maxNARDepth   = 64   // nodes from the root to a leaf
	maxNARName    = 255  // bytes of a directory entry's name
	maxNARSymlink = 4095 // bytes of a symlink's target
)

// A layout is the shape of an archive: its literal bytes, and between them which stretches are the contents of
// which files. It is made from the metadata of the files alone, so that reading the archive anywhere costs no more
// than reading the files there. It never changes.
type layout struct {
	literals []byte // all that is not the contents of files, end to end
	extents  []extent
	dirs     []layoutDir // the first is the root, if that is a directory
	size     int64       // of the archive
}

// An extent is a run of literal bytes and the contents of the non-empty file that follow it. The last has no file.
type extent struct {
	start   int64  // offset of the run in the archive
	literal uint32 // offset of the run in literals; it ends where the next extent's begins
	dir     uint32 // the directory of the file
	name    nameRef
}

// A layoutDir is a directory with a non-empty file in it, or above one.
type layoutDir struct {
	parent uint32
	name   nameRef
}

// A nameRef is a name in the literals, where the archive has it anyway. The root has the zero nameRef.
type nameRef struct {
	start uint32
	len   uint8
}

func (l *layout) name(r nameRef) string { return string(l.literals[r.start : r.start+uint32(r.len)]) }

// path returns the name of extent i's file below the root, for error messages.
func (l *layout) path(i int) string {
	names := []string{l.name(l.extents[i].name)}
	for d := l.extents[i].dir; d != 0; d = l.dirs[d].parent {
		names = append(names, l.name(l.dirs[d].name))
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// bytes estimates what the layout occupies in memory.
func (l *layout) bytes() int64 {
	const extentSize, dirSize = 24, 12
	return int64(len(l.literals)) + extentSize*int64(len(l.extents)) + dirSize*int64(len(l.dirs)) + 256
}

// run returns the literal bytes of extent i.
func (l *layout) run(i int) []byte {
	end := uint32(len(l.literals))
	if i+1 < len(l.extents) {
		end = l.extents[i+1].literal
	}
	return l.literals[l.extents[i].literal:end]
}

// Literal pieces of the format: strings with their lengths and padding.
var (
	narMagic      = narString("nix-archive-1")
	narOpen       = narString("(")
	narClose      = narString(")")
	narRegular    = slices.Concat(narOpen, narString("type"), narString("regular"))
	narExecutable = slices.Concat(narString("executable"), narString(""))
	narContents   = narString("contents")
	narSymlink    = slices.Concat(narOpen, narString("type"), narString("symlink"), narString("target"))
	narDirectory  = slices.Concat(narOpen, narString("type"), narString("directory"))
	narEntry      = slices.Concat(narString("entry"), narOpen, narString("name"))
	narNode       = narString("node")
)

func narString(s string) []byte { return appendNARString(nil, s) }

func appendNARString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return append(b, narPadding(int64(len(s)))...)
}

// narPadding returns the zeros that follow n bytes.
func narPadding(n int64) []byte { return make([]byte, 7)[:-n&7] }

// newLayout lays out the archive, of size bytes, of the file, directory or symlink at root. It follows no symlink but
// those in root's own directory. The error wraps ErrCorrupt if the archive cannot have that size, or no archive can be
// made of root.
func newLayout(ctx context.Context, root string, size int64) (*layout, error) {
	b := layoutBuilder{root: root, limit: size, dirents: make([]byte, 32<<10)}
	b.literals = append(b.literals, narMagic...)
	dir, name := filepath.Split(root)
	fd, err := openAt(unix.AT_FDCWD, dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := b.node(ctx, fd, name, layoutDir{}); err != nil {
		return nil, err
	}
	if got := b.end(); got != size {
		return nil, fmt.Errorf("%s: its archive has %d bytes, want %d: %w", root, got, size, store.ErrCorrupt)
	}
	extents := append(b.extents, extent{start: b.start, literal: b.literal})
	return &layout{literals: bytes.Clone(b.literals), extents: slices.Clip(slices.Clone(extents)),
		dirs: slices.Clip(slices.Clone(b.dirs)), size: size}, nil
}

type layoutBuilder struct {
	root    string
	limit   int64 // the archive is not longer than this
	dirents []byte
	path    []string // names from the root to the node at hand, for error messages

	literals []byte
	extents  []extent
	dirs     []layoutDir
	start    int64  // where the literal bytes since the last file's contents begin in the archive
	literal  uint32 // and in literals
}

// end is the length of the archive so far.
func (b *layoutBuilder) end() int64 { return b.start + int64(len(b.literals)) - int64(b.literal) }

func (b *layoutBuilder) corrupt(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", b.subject(), fmt.Sprintf(format, args...), store.ErrCorrupt)
}

func (b *layoutBuilder) fail(op string, err error) error {
	return gone(&fs.PathError{Op: op, Path: b.subject(), Err: err})
}

func (b *layoutBuilder) subject() string {
	return strings.Join(append([]string{b.root}, b.path...), "/")
}

// node appends the node called name in the directory open as fd. at is its place in the layout.
func (b *layoutBuilder) node(ctx context.Context, fd int, name string, at layoutDir) error {
	if len(b.path) >= maxNARDepth {
		return b.corrupt("nested deeper than %d", maxNARDepth)
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return b.fail("lstat", err)
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = b.file(&st, at)
	case unix.S_IFLNK:
		err = b.symlink(fd, name)
	case unix.S_IFDIR:
		err = b.directory(ctx, fd, name, at)
	default:
		return b.corrupt("mode %#o is none of file, directory and symlink", st.Mode)
	}
	if err != nil {
		return err
	}
	b.literals = append(b.literals, narClose...)
	if b.end() > b.limit {
		return b.corrupt("the archive is longer than the %d bytes it should have", b.limit)
	}
	if len(b.literals) > math.MaxInt32 {
		return errors.New(b.root + ": too many files")
	}
	return nil
}

func (b *layoutBuilder) file(st *unix.Stat_t, at layoutDir) error {
	b.literals = append(b.literals, narRegular...)
	if st.Mode&unix.S_IXUSR != 0 {
		b.literals = append(b.literals, narExecutable...)
	}
	b.literals = append(b.literals, narContents...)
	b.literals = binary.LittleEndian.AppendUint64(b.literals, uint64(st.Size))
	if st.Size == 0 {
		return nil
	}
	if st.Size < 0 || st.Size > b.limit {
		return b.corrupt("%d bytes do not fit into an archive of %d", st.Size, b.limit)
	}
	b.extents = append(b.extents, extent{start: b.start, literal: b.literal, dir: at.parent, name: at.name})
	b.start = b.end() + st.Size
	b.literal = uint32(len(b.literals))
	b.literals = append(b.literals, narPadding(st.Size)...)
	return nil
}

func (b *layoutBuilder) symlink(fd int, name string) error {
	target := make([]byte, maxNARSymlink+1)
	var n int
	err := retry(func() (err error) { n, err = unix.Readlinkat(fd, name, target); return err })
	if err != nil {
		return b.fail("readlink", err)
	}
	if n < 1 || n > maxNARSymlink {
		return b.corrupt("the target of the symlink has no byte, or more than %d", maxNARSymlink)
	}
	b.literals = append(b.literals, narSymlink...)
	b.literals = appendNARString(b.literals, string(target[:n]))
	return nil
}

func (b *layoutBuilder) directory(ctx context.Context, parent int, name string, at layoutDir) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := openAt(parent, name, unix.O_DIRECTORY)
	if err != nil {
		return b.fail("open", err)
	}
	defer unix.Close(fd)
	names, err := b.readDir(fd)
	if err != nil {
		return err
	}
	self := uint32(len(b.dirs))
	b.dirs = append(b.dirs, at)
	b.literals = append(b.literals, narDirectory...)
	for _, name := range names {
		if fault := narNameFault([]byte(name)); fault != "" {
			return b.corrupt("the name %.80q %s", name, fault)
		}
		b.literals = append(b.literals, narEntry...)
		ref := nameRef{uint32(len(b.literals) + 8), uint8(len(name))}
		b.literals = appendNARString(b.literals, name)
		b.literals = append(b.literals, narNode...)
		b.path = append(b.path, name)
		if err := b.node(ctx, fd, name, layoutDir{self, ref}); err != nil {
			return err
		}
		b.path = b.path[:len(b.path)-1]
		b.literals = append(b.literals, narClose...)
	}
	return nil
}

// readDir returns the names in the directory, in the order of their bytes.
func (b *layoutBuilder) readDir(fd int) ([]string, error) {
	var names []string
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.ReadDirent(fd, b.dirents); return err })
		if err != nil {
			return nil, b.fail("readdir", err)
		}
		if n <= 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent(b.dirents[:n], -1, names)
		if int64(len(names))*int64(len(narEntry)) > b.limit {
			return nil, b.corrupt("more files than fit into an archive of %d bytes", b.limit)
		}
	}
}

// openAt opens name for reading, never through a symlink as its last component, and never waiting for a writer.
func openAt(dir int, name string, flags int) (fd int, err error) {
	err = retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// retry repeats a system call that a signal interrupted, as package os does for those that it makes.
func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}

// gone adds ErrNotFound to the error of a file that is no longer there.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return err
}

// caseHack is the mark that Nix on macOS adds to names of files that differ in case alone, and removes when it dumps
// the files. A name that has the mark in an archive therefore means another file there, and may collide with one that
// Nix marks. On Linux it is a name like others, which every version of Nix accepts.
const (
	caseHack   = "~nix~case~hack~"
	caseHackOn = runtime.GOOS == "darwin"
)

// narNameFault returns the fault in the name of a directory's entry, or "".
func narNameFault(name []byte) string {
	switch {
	case len(name) > maxNARName:
		return "is too long"
	case len(name) == 0, string(name) == ".", string(name) == "..", bytes.ContainsAny(name, "/\x00"):
		return "is no file's"
	case caseHackOn && bytes.Contains(name, []byte(caseHack)):
		return "is reserved"
	}
	return ""
}
