package nar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"narbor/store"
)

const (
	maxNARWord = 16 // bytes; the longest word of the format, "executable", has 10
	// narWindow is how much of an archive is read at a time. It holds the longest string with its padding. Small
	// files come many to a window, and reading more than this after a large one costs more than it saves.
	narWindow = 8 << 10
)

// The beginning and the end of most files.
var (
	narPlainFile  = slices.Concat(narRegular, narContents)
	narCloseTwice = slices.Concat(narClose, narClose)
)

// Check says whether an archive of size bytes is one that Nix itself would have made, within the limits of its
// newest version: canonical to the last byte, with entries sorted and names and targets that a file system can have.
// Nix unpacks as root, and older versions let much of that pass, or overflow their stacks.
//
// It reads the structure and skips the contents of files, and takes at most 26 KiB of memory whatever it is given. The
// error wraps [store.ErrMalformed], unless nar could not be read.
func Check(nar io.ReaderAt, size int64) error {
	if size < 0 || size > store.MaxNarSize { // so that no sum overflows
		return fmt.Errorf("%w: of %d bytes", store.ErrMalformed, size)
	}
	w := narWalk{nar: nar, size: size}
	if err := w.expect("nix-archive-1"); err != nil {
		return err
	}
	for more := true; more; {
		err := w.node()
		if err == nil {
			more, err = w.next()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A narWalk reads an archive from its beginning to its end.
type narWalk struct {
	nar   io.ReaderAt
	size  int64
	off   int64 // of what comes next
	token int64 // where the last string began, for error messages

	window   [narWindow]byte
	from, to int64 // what of the archive is in window

	depth int                 // directories that are open
	names [maxNARDepth][]byte // the last name in each of them
}

func (w *narWalk) bad(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", store.ErrMalformed, w.token, fmt.Sprintf(format, args...))
}

// node reads a file or symlink to its end, or opens a directory.
func (w *narWalk) node() error {
	if w.depth >= maxNARDepth {
		return w.bad("nested deeper than %d", maxNARDepth)
	}
	if w.skip(narPlainFile) { // most nodes
		return w.contents()
	}
	if err := w.expect("(", "type"); err != nil {
		return err
	}
	kind, err := w.str(maxNARWord)
	if err != nil {
		return err
	}
	switch string(kind) {
	case "directory":
		w.names[w.depth] = w.names[w.depth][:0]
		w.depth++
		return nil
	case "regular":
		return w.file()
	case "symlink":
		return w.symlink()
	}
	return w.bad("%q is none of file, directory and symlink", kind)
}

// next goes to the node after the one that was read last, and closes the directories that end before it. It returns
// false at the end of the archive.
func (w *narWalk) next() (more bool, err error) {
	for w.depth > 0 {
		if w.skip(narEntry) {
			return true, w.name()
		}
		word, err := w.str(maxNARWord)
		if err != nil {
			return false, err
		}
		if string(word) == "entry" {
			if err := w.expect("(", "name"); err != nil {
				return false, err
			}
			return true, w.name()
		}
		if string(word) != ")" {
			return false, w.bad("%q in a directory", word)
		}
		w.depth--
		if err := w.endEntry(); err != nil {
			return false, err
		}
	}
	if w.off != w.size {
		return false, w.bad("%d bytes follow the end", w.size-w.off)
	}
	return false, nil
}

// end reads the end of a file or symlink, and of the entry that it is in.
func (w *narWalk) end() error {
	if w.depth > 0 && w.skip(narCloseTwice) {
		return nil
	}
	if err := w.expect(")"); err != nil {
		return err
	}
	return w.endEntry()
}

// endEntry reads the end of the entry that the last node is in; the root is in none.
func (w *narWalk) endEntry() error {
	if w.depth == 0 {
		return nil
	}
	return w.expect(")")
}

// name reads the name of an entry, and that its node follows.
func (w *narWalk) name() error {
	name, err := w.str(maxNARName)
	if err != nil {
		return err
	}
	if fault := narNameFault(name); fault != "" {
		return w.bad("the name %.80q %s", name, fault)
	}
	last := &w.names[w.depth-1]
	if bytes.Compare(name, *last) <= 0 {
		return w.bad("the name %.80q after %.80q", name, *last)
	}
	*last = append((*last)[:0], name...)
	return w.expect("node")
}

func (w *narWalk) symlink() error {
	if err := w.expect("target"); err != nil {
		return err
	}
	target, err := w.str(maxNARSymlink)
	if err != nil {
		return err
	}
	if len(target) == 0 || bytes.IndexByte(target, 0) >= 0 {
		return w.bad("the target %.80q is no file's", target)
	}
	return w.end()
}

func (w *narWalk) file() error {
	word, err := w.str(maxNARWord)
	if err == nil && string(word) == "executable" {
		if err = w.expect(""); err == nil {
			word, err = w.str(maxNARWord)
		}
	}
	if err != nil {
		return err
	}
	if string(word) != "contents" {
		return w.bad("%q in a file", word)
	}
	return w.contents()
}

// contents passes over the contents of a file, and reads its end.
func (w *narWalk) contents() error {
	size, err := w.length()
	if err != nil {
		return err
	}
	w.off += size
	if err := w.padding(size); err != nil {
		return err
	}
	return w.end()
}

// skip passes what a literal says, if that comes next and is in the window. It is only faster than reading words.
func (w *narWalk) skip(literal []byte) bool {
	end := w.off + int64(len(literal))
	if end > w.to || !bytes.Equal(w.window[w.off-w.from:end-w.from], literal) {
		return false
	}
	w.token, w.off = w.off, end
	return true
}

// expect reads these words.
func (w *narWalk) expect(words ...string) error {
	for _, want := range words {
		got, err := w.str(maxNARWord)
		if err != nil {
			return err
		}
		if string(got) != want {
			return w.bad("%q, want %q", got, want)
		}
	}
	return nil
}

// str reads a string of at most limit bytes. It is valid until the next is read.
func (w *narWalk) str(limit int64) ([]byte, error) {
	n, err := w.length()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, w.bad("a string of %d bytes, more than %d", n, limit)
	}
	// With the padding, so that reading that does not move the window.
	b, err := w.peek(min(n+-n&7, w.size-w.off))
	if err != nil {
		return nil, err
	}
	w.off += n
	return b[:n], w.padding(n)
}

// length reads the length of what follows, of which there are so many bytes.
func (w *narWalk) length() (int64, error) {
	w.token = w.off
	b, err := w.peek(8)
	if err != nil {
		return 0, err
	}
	w.off += 8
	n := binary.LittleEndian.Uint64(b)
	if left := w.size - w.off; n > uint64(left) {
		return 0, w.bad("a length of %d, and %d bytes are left", n, left)
	}
	return int64(n), nil
}

// padding reads the zeros that follow n bytes.
func (w *narWalk) padding(n int64) error {
	b, err := w.peek(-n & 7)
	if err != nil {
		return err
	}
	for _, c := range b {
		if c != 0 {
			return w.bad("padding that is not zero")
		}
	}
	w.off += int64(len(b))
	return nil
}

// peek returns the next n bytes, at most [narWindow], and does not pass them.
func (w *narWalk) peek(n int64) ([]byte, error) {
	if n > w.size-w.off {
		return nil, w.bad("the archive ends within it")
	}
	if w.off < w.from || w.off+n > w.to {
		b := w.window[:min(narWindow, w.size-w.off)]
		w.from, w.to = 0, 0
		if got, err := w.nar.ReadAt(b, w.off); got < len(b) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read at %d: %w", w.off, err)
		}
		w.from, w.to = w.off, w.off+int64(len(b))
	}
	return w.window[w.off-w.from:][:n], nil
}
