package nar

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sys/unix"

	"narbor/store"
)

// maxOpenFiles is how many descriptors an open archive keeps, of files that are being read and of their directories:
// enough for a few readers in different places.
const maxOpenFiles = 12

// maxLayoutBytes bounds what layouts are remembered: those of about 150,000 files.
const maxLayoutBytes = 32 << 20

// A Tree is an archive that is read from the files that its layout names. It is a [store.NAR].
type Tree struct {
	*layout
	root  string
	files openFiles
}

func newTree(l *layout, root string) *Tree { return &Tree{layout: l, root: root} }

func (n *Tree) Size() int64 { return n.size }

// Close gives back the files. Reads that are under way end normally.
func (n *Tree) Close() error {
	n.files.close()
	return nil
}

// ReadAt implements [io.ReaderAt].
func (n *Tree) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: read at offset %d", n.root, off)
	}
	if off >= n.size {
		return 0, io.EOF
	}
	end := min(n.size, off+int64(len(p)))
	done := 0
	i := sort.Search(len(n.extents), func(i int) bool { return n.extents[i].start > off }) - 1
	for ; off < end; i++ {
		run := n.run(i)
		contents := n.extents[i].start + int64(len(run))
		if off < contents {
			c := copy(p[done:], run[off-n.extents[i].start:])
			done, off = done+c, off+int64(c)
		}
		if off >= end {
			break
		}
		next := n.extents[i+1].start // the last extent ends at size, so this is not the last
		want := min(end, next) - off
		if err := n.readFile(i, p[done:done+int(want)], off-contents, next-contents); err != nil {
			return done, err
		}
		done, off = done+int(want), off+want
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readFile fills p from offset off of extent i's file, which has size bytes. A file that is read whole, which is
// what most small ones are, is not kept open.
func (n *Tree) readFile(i int, p []byte, off, size int64) error {
	whole := int64(len(p)) == size
	f, err := n.openFile(i, size, !whole)
	if err != nil {
		return gone(&fs.PathError{Op: "open", Path: filepath.Join(n.root, n.path(i)), Err: err})
	}
	defer n.files.put(f)
	for len(p) > 0 {
		var c int
		err := retry(func() (err error) { c, err = unix.Pread(f.fd, p, off); return err })
		if err == nil && c <= 0 {
			err = fmt.Errorf("ends at %d of %d bytes: %w", off, size, store.ErrCorrupt)
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: filepath.Join(n.root, n.path(i)), Err: err}
		}
		p, off = p[c:], off+int64(c)
	}
	return nil
}

func (n *Tree) openFile(i int, size int64, keep bool) (*openFile, error) {
	if f, err := n.files.get(i); f != nil || err != nil {
		return f, err
	}
	e := n.extents[i]
	fd, err := n.openNode(layoutDir{e.dir, e.name}, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = retry(func() error { return unix.Fstat(fd, &st) })
	if err == nil && st.Size != size { // pipes and devices have size 0, and directories cannot be read
		err = fmt.Errorf("not a file of %d bytes any more: %w", size, store.ErrCorrupt)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return n.files.add(i, fd, keep), nil
}

// openDir returns directory d, kept open together with its parents while there is room.
func (n *Tree) openDir(d uint32) (*openFile, error) {
	key := ^int(d)
	if f, err := n.files.get(key); f != nil || err != nil {
		return f, err
	}
	fd, err := n.openNode(n.dirs[d], unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return n.files.add(key, fd, true), nil
}

// openNode opens a node of the archive, going down from the root one directory at a time, never through a symlink.
func (n *Tree) openNode(at layoutDir, flags int) (int, error) {
	if at.name.len == 0 {
		return openAt(unix.AT_FDCWD, n.root, flags)
	}
	parent, err := n.openDir(at.parent)
	if err != nil {
		return -1, err
	}
	defer n.files.put(parent)
	return openAt(parent.fd, n.name(at.name), flags)
}

// openFiles are the descriptors that an archive keeps between reads, least recently used first. Beyond them there
// are no more than the reads that are under way need. The zero value is empty.
type openFiles struct {
	mu     sync.Mutex // guards what follows, and the files' own fields
	kept   []*openFile
	closed bool
}

// An openFile is closed by the last user once it is not kept any more.
type openFile struct {
	fd, key int
	users   int
	kept    bool
}

// get returns the file with that key for the caller to put back, nil if it is not open, or an error after close.
func (o *openFiles) get(key int) (*openFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, fs.ErrClosed
	}
	for i := len(o.kept) - 1; i >= 0; i-- {
		if f := o.kept[i]; f.key == key {
			copy(o.kept[i:], o.kept[i+1:])
			o.kept[len(o.kept)-1] = f
			f.users++
			return f, nil
		}
	}
	return nil, nil
}

// add takes fd over. The caller puts the file back.
func (o *openFiles) add(key, fd int, keep bool) *openFile {
	f := &openFile{fd: fd, key: key, users: 1}
	if !keep {
		return f
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return f
	}
	if len(o.kept) == maxOpenFiles {
		o.forget(o.kept[0])
		o.kept = o.kept[:copy(o.kept, o.kept[1:])]
	}
	f.kept = true
	o.kept = append(o.kept, f)
	return f
}

func (o *openFiles) put(f *openFile) {
	o.mu.Lock()
	f.users--
	last := f.users == 0 && !f.kept
	o.mu.Unlock()
	if last {
		unix.Close(f.fd)
	}
}

// forget stops keeping f, which the caller takes off the list. Its last user closes it.
func (o *openFiles) forget(f *openFile) {
	f.kept = false
	if f.users == 0 {
		unix.Close(f.fd)
	}
}

func (o *openFiles) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.kept {
		o.forget(f)
	}
	o.kept, o.closed = nil, true
}

// layoutKey identifies a layout by path and hash: a path that is deleted and made again may have other contents.
type layoutKey struct {
	path    store.Path
	narHash store.Hash
}

// Layouts hold the layouts used last. A request for a layout that is being made waits for it.
type Layouts struct {
	limit int64

	mu     sync.Mutex // guards what follows
	lru    *simplelru.LRU[layoutKey, *layout]
	bytes  int64
	making map[layoutKey]chan struct{} // closed when it is made, or could not be
}

// NewLayouts returns an empty cache.
func NewLayouts() *Layouts { return newLayouts(maxLayoutBytes) }

func newLayouts(limit int64) *Layouts {
	lru, err := simplelru.NewLRU[layoutKey, *layout](1<<30, nil)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &Layouts{limit: limit, lru: lru, making: map[layoutKey]chan struct{}{}}
}

// Open opens the archive of the path that info describes, below storeDir.
func (c *Layouts) Open(ctx context.Context, storeDir string, info store.Info) (*Tree, error) {
	l, err := c.get(ctx, storeDir, info)
	if err != nil {
		return nil, err
	}
	return newTree(l, filepath.Join(storeDir, info.Path.Base())), nil
}

// get returns the layout of the path that info describes, below storeDir.
func (c *Layouts) get(ctx context.Context, storeDir string, info store.Info) (*layout, error) {
	key := layoutKey{info.Path, info.NarHash}
	for {
		l, wait := c.lookup(key)
		if wait == nil && l == nil {
			l, err := newLayout(ctx, filepath.Join(storeDir, info.Path.Base()), info.NarSize)
			c.made(key, l)
			return l, err
		}
		if wait == nil && l.size != info.NarSize {
			return nil, fmt.Errorf("%s: its archive has %d bytes, want %d: %w", info.Path, l.size, info.NarSize, store.ErrCorrupt)
		}
		if wait == nil {
			return l, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lookup returns a layout that is there, or the channel to wait on if another makes it, or neither: then the caller
// makes it, and calls made.
func (c *Layouts) lookup(key layoutKey) (*layout, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.lru.Get(key); ok {
		return l, nil
	}
	if wait, ok := c.making[key]; ok {
		return nil, wait
	}
	c.making[key] = make(chan struct{})
	return nil, nil
}

// made ends what lookup began; l is nil if the layout could not be made.
func (c *Layouts) made(key layoutKey, l *layout) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.making[key])
	delete(c.making, key)
	if l == nil || l.bytes() > c.limit {
		return
	}
	c.lru.Add(key, l)
	c.bytes += l.bytes()
	for c.bytes > c.limit {
		_, old, _ := c.lru.RemoveOldest()
		c.bytes -= old.bytes()
	}
}
