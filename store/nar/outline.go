package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"

	"narbor/store"
)

// An Outline is the shape of an archive, without contents: files and targets of symlinks have the numbers that
// [OutlineBuilder] was given, by which their contents are found. It takes about 40 bytes for each node, and its name. It never changes.
type Outline struct {
	nodes []outlineNode
	names []byte // end to end, in the order of nodes
	size  int64
}

type outlineKind uint8

const (
	outlineFile outlineKind = iota
	outlineExecutable
	outlineSymlink
	outlineDirectory
)

// An outlineNode is a piece of an archive: from the entry of a node to that of the next.
type outlineNode struct {
	start   int64 // offset in the archive
	size    int64 // of the contents
	content uint32
	name    uint32 // where its name begins in names
	nameLen uint8
	kind    outlineKind
	closes  uint8 // how many directories end after it
}

// An OutlineBuilder makes an Outline. Its methods are called in the order of the archive; the first error stays. The
// zero value is ready.
type OutlineBuilder struct {
	// MaxNodes bounds the nodes; 0 is no limit.
	MaxNodes int

	out   Outline
	open  []string // the last name in each open directory, "" if there is none
	path  []string // names of the open directories
	ended bool     // the root is complete
	err   error
}

// Directory begins a directory; the name of the root is "".
func (b *OutlineBuilder) Directory(name string) error {
	if err := b.add(name, outlineNode{kind: outlineDirectory}); err != nil {
		return err
	}
	if len(b.open) == maxNARDepth-1 {
		return b.fail("%s: nested deeper than %d", b.at(name), maxNARDepth)
	}
	b.open, b.path = append(b.open, ""), append(b.path, name)
	return nil
}

// End ends the directory that was begun last.
func (b *OutlineBuilder) End() error {
	if b.err != nil {
		return b.err
	}
	last := &b.out.nodes[len(b.out.nodes)-1]
	last.closes++
	b.open, b.path = b.open[:len(b.open)-1], b.path[:len(b.path)-1]
	b.ended = len(b.open) == 0
	return nil
}

// File adds a file of size bytes.
func (b *OutlineBuilder) File(name string, size int64, executable bool, content uint32) error {
	kind := outlineFile
	if executable {
		kind = outlineExecutable
	}
	return b.leaf(name, outlineNode{size: size, kind: kind, content: content})
}

// Symlink adds a symlink with a target of size bytes.
func (b *OutlineBuilder) Symlink(name string, size int64, content uint32) error {
	if size < 1 || size > maxNARSymlink {
		return b.fail("%s: the target of the symlink has no byte, or more than %d", b.at(name), maxNARSymlink)
	}
	return b.leaf(name, outlineNode{size: size, kind: outlineSymlink, content: content})
}

func (b *OutlineBuilder) leaf(name string, n outlineNode) error {
	if n.size < 0 || n.size > store.MaxNarSize {
		return b.fail("%s: a file of %d bytes", b.at(name), n.size)
	}
	err := b.add(name, n)
	b.ended = len(b.open) == 0
	return err
}

func (b *OutlineBuilder) at(name string) string {
	return strings.Join(append(b.path[:len(b.path):len(b.path)], name), "/")
}

func (b *OutlineBuilder) fail(format string, args ...any) error {
	if b.err == nil {
		b.err = fmt.Errorf("%w: %s", store.ErrMalformed, fmt.Sprintf(format, args...))
	}
	return b.err
}

// add appends a node, and checks its name and its place.
func (b *OutlineBuilder) add(name string, n outlineNode) error {
	switch depth := len(b.open); {
	case b.err != nil:
		return b.err
	case b.ended:
		return b.fail("%s: something follows the root", b.at(name))
	case depth == 0 && name != "":
		return b.fail("%s: the root has a name", b.at(name))
	case depth > 0:
		if fault := narNameFault([]byte(name)); fault != "" {
			return b.fail("the name %.80q %s", b.at(name), fault)
		}
		if last := b.open[depth-1]; last != "" && name <= last {
			return b.fail("%.80q comes after %.80q", b.at(name), last)
		}
		b.open[depth-1] = name
	}
	if b.MaxNodes > 0 && len(b.out.nodes) >= b.MaxNodes || len(b.out.names) > math.MaxUint32-maxNARName {
		return b.fail("more than %d files", b.MaxNodes)
	}
	n.name, n.nameLen = uint32(len(b.out.names)), uint8(len(name))
	b.out.names = append(b.out.names, name...)
	b.out.nodes = append(b.out.nodes, n)
	return nil
}

// Outline returns what was built.
func (b *OutlineBuilder) Outline() (*Outline, error) {
	if b.err == nil && !b.ended {
		b.err = errors.New("an archive without an end")
	}
	if b.err != nil {
		return nil, b.err
	}
	o := b.out
	var buf []byte
	for i := range o.nodes {
		n := &o.nodes[i]
		n.start = o.size
		buf = o.tail(o.head(buf[:0], i), i)
		o.size += int64(len(buf)) + n.size
		if o.size > store.MaxNarSize {
			return nil, fmt.Errorf("%w: larger than %d bytes", store.ErrMalformed, int64(store.MaxNarSize))
		}
	}
	return &o, nil
}

// Size is the length of the archive in bytes.
func (o *Outline) Size() int64 { return o.size }

// Bytes is about what the outline takes in memory.
func (o *Outline) Bytes() int64 { return 40*int64(len(o.nodes)) + int64(len(o.names)) }

// head appends what precedes the contents of node i.
func (o *Outline) head(b []byte, i int) []byte {
	n := o.nodes[i]
	if i == 0 {
		b = append(b, narMagic...)
	} else {
		b = append(b, narEntry...)
		b = appendNARString(b, string(o.names[n.name:n.name+uint32(n.nameLen)]))
		b = append(b, narNode...)
	}
	switch n.kind {
	case outlineDirectory:
		return append(b, narDirectory...)
	case outlineSymlink:
		b = append(b, narSymlink...)
	case outlineExecutable:
		b = append(append(append(b, narRegular...), narExecutable...), narContents...)
	case outlineFile:
		b = append(append(b, narRegular...), narContents...)
	}
	return binary.LittleEndian.AppendUint64(b, uint64(n.size))
}

// tail appends what follows the contents of node i, up to the next node.
func (o *Outline) tail(b []byte, i int) []byte {
	n := o.nodes[i]
	closes := int(n.closes) // of nodes, that of the root included
	if n.kind != outlineDirectory {
		b = append(b, narPadding(n.size)...)
		closes++
	}
	for range closes {
		b = append(b, narCloseTwice...) // of the node, and of its entry
	}
	if i == len(o.nodes)-1 { // the root is no entry
		b = b[:len(b)-len(narClose)]
	}
	return b
}

// ReadAt reads from the archive as [io.ReaderAt] does. read fills p from offset off of a file or target.
func (o *Outline) ReadAt(p []byte, off int64, read func(content uint32, p []byte, off int64) error) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= o.size {
		return 0, io.EOF
	}
	done := 0
	var buf []byte
	for i := sort.Search(len(o.nodes), func(i int) bool { return o.nodes[i].start > off }) - 1; i < len(o.nodes); i++ {
		n := o.nodes[i]
		buf = o.head(buf[:0], i)
		at := off + int64(done) - n.start // within the piece
		if at < int64(len(buf)) {
			c := copy(p[done:], buf[at:])
			done, at = done+c, at+int64(c)
		}
		at -= int64(len(buf))
		if at < n.size && done < len(p) {
			c := int(min(int64(len(p)-done), n.size-at))
			if err := read(n.content, p[done:done+c], at); err != nil {
				return done, err
			}
			done, at = done+c, at+int64(c)
		}
		if done == len(p) {
			return done, nil
		}
		buf = o.tail(buf[:0], i)
		done += copy(p[done:], buf[at-n.size:])
		if done == len(p) {
			return done, nil
		}
	}
	return done, io.EOF
}
