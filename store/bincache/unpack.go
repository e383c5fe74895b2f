package bincache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

const (
	// maxUnpacking is how many NARs one cache unpacks at a time: each takes a processor and its window's memory.
	maxUnpacking = 2

	// maxZstdWindow bounds the memory that a compressed file can ask for: what `zstd --ultra -22` needs.
	maxZstdWindow = 128 << 20

	// Unpacked NARs that are no longer read are kept for a moment, for the next neighbour that requests the same.
	maxIdleUnpacked      = 4
	maxIdleUnpackedBytes = 1 << 30
	unpackedIdle         = 2 * time.Minute

	// scratchName is the pattern of names that unpacked NARs have until they are unlinked. A spool that has the same
	// directory deletes leftovers with that ending.
	scratchName = "unpack-*.part"

	// minScratchFree is what unpacking leaves free on the disk.
	minScratchFree = 256 << 20
)

// A packedFile identifies the content of a compressed NAR as well as a file's metadata can.
type packedFile struct {
	name        string
	size, mtime int64
	compression string
	narSize     int64
}

// An unpacker turns compressed NARs into files without a name. Requests for the same NAR at the same time, or soon
// after, share one file.
type unpacker struct {
	dir   string
	slots chan struct{} // holds one value per NAR that is being unpacked

	mu    sync.Mutex // guards the rest, and what files point to
	files map[packedFile]*unpacked
	idle  []*unpacked // without a handle, the longest idle first
}

// An unpacked is a NAR that is, or is being, unpacked.
type unpacked struct {
	key     packedFile
	handles int
	since   time.Time // when it became idle

	ready chan struct{} // closed when the rest is final
	file  *os.File
	err   error
}

// unpackedNAR implements [store.NAR].
type unpackedNAR struct {
	fileNAR
	close func() error
}

func (n *unpackedNAR) Close() error { return n.close() }

func newUnpacker(dir string) *unpacker {
	return &unpacker{dir: dir, slots: make(chan struct{}, maxUnpacking), files: map[packedFile]*unpacked{}}
}

// open returns the NAR that is compressed in f. It unpacks in the caller's goroutine, under the caller's context. A
// call that waits for another to unpack takes over if the other's context ends.
func (u *unpacker) open(ctx context.Context, f *os.File, key packedFile) (store.NAR, error) {
	for {
		n, mine := u.hold(key)
		if mine {
			file, err := u.unpack(ctx, f, key)
			u.settle(n, file, err)
		}
		select {
		case <-n.ready:
		case <-ctx.Done():
			u.release(n)
			return nil, ctx.Err()
		}
		if n.err == nil {
			once := sync.OnceValue(func() error { return u.release(n) })
			return &unpackedNAR{fileNAR{n.file, key.narSize}, once}, nil
		}
		u.release(n)
		if mine || !errors.Is(n.err, context.Canceled) && !errors.Is(n.err, context.DeadlineExceeded) {
			return nil, n.err
		}
	}
}

// hold returns the entry for a compressed file, with a handle more, and whether the caller is to unpack it.
func (u *unpacker) hold(key packedFile) (n *unpacked, mine bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, ok := u.files[key]
	if !ok {
		n = &unpacked{key: key, ready: make(chan struct{})}
		u.files[key] = n
	}
	n.handles++
	u.idle = slices.DeleteFunc(u.idle, func(e *unpacked) bool { return e == n })
	return n, !ok
}

// settle makes the outcome of unpacking known. A failure is not kept: the next caller tries again.
func (u *unpacker) settle(n *unpacked, file *os.File, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n.file, n.err = file, err
	if err != nil {
		delete(u.files, n.key)
	}
	close(n.ready)
}

// release gives a handle back.
func (u *unpacker) release(n *unpacked) error {
	u.mu.Lock()
	n.handles--
	if n.handles == 0 && n.file != nil {
		n.since = time.Now()
		u.idle = append(u.idle, n)
	}
	u.mu.Unlock()
	return u.trim()
}

// trim closes idle files beyond the limits on number and bytes, and files that have been idle for too long.
func (u *unpacker) trim() error {
	u.mu.Lock()
	var bytes int64
	drop := len(u.idle)
	for drop > 0 && len(u.idle)-drop < maxIdleUnpacked {
		n := u.idle[drop-1]
		bytes += n.key.narSize
		if bytes > maxIdleUnpackedBytes || time.Since(n.since) >= unpackedIdle {
			break
		}
		drop--
	}
	gone := slices.Clone(u.idle[:drop])
	u.idle = slices.Delete(u.idle, 0, drop)
	for _, n := range gone {
		delete(u.files, n.key)
	}
	u.mu.Unlock()
	var errs []error
	for _, n := range gone {
		errs = append(errs, n.file.Close())
	}
	return errors.Join(errs...)
}

// unpack writes a NAR into a new file without a name. It never writes more than the NAR's size, and fails if the
// compressed file has less or more. Errors wrap [store.ErrCorrupt] if they are the compressed file's fault.
func (u *unpacker) unpack(ctx context.Context, f *os.File, key packedFile) (*os.File, error) {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out, err := u.scratch(key.narSize)
	if err != nil {
		return nil, err
	}
	if err := decompress(ctx, out, f, key); err != nil {
		out.Close()
		return nil, nar.NoSpace(cmp.Or(ctx.Err(), err)) // package xz hides what the context says
	}
	return out, nil
}

// scratch makes a file without a name on a disk that has room for size bytes.
func (u *unpacker) scratch(size int64) (*os.File, error) {
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return nil, err
	}
	out, err := os.CreateTemp(u.dir, scratchName)
	if err != nil {
		return nil, nar.NoSpace(err)
	}
	err = os.Remove(out.Name())
	var free int64
	if err == nil {
		free, err = nar.FreeBytes(out)
	}
	if err == nil && free-size < minScratchFree {
		err = fmt.Errorf("%w: %d bytes to unpack, %d are free on the disk of %s and %d stay so",
			store.ErrNoSpace, size, free, u.dir, minScratchFree)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// decompress writes to out the NAR that is compressed in f.
func decompress(ctx context.Context, out io.Writer, f io.ReaderAt, key packedFile) error {
	r, err := nar.Decompress(contextReader{ctx, io.NewSectionReader(f, 0, key.size)}, key.compression, key.narSize, maxZstdWindow)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(out, io.LimitReader(r, key.narSize+1))
	if err == nil && n != key.narSize {
		err = fmt.Errorf("%w: unpacks to %d bytes or more, not %d", store.ErrCorrupt, n, key.narSize)
	}
	return err
}

// A contextReader fails once its context has ended. It lives for one call of decompress: an [io.Reader] is given no
// context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type fileNAR struct {
	*os.File
	size int64
}

func (n *fileNAR) Size() int64 { return n.size }

func (n *fileNAR) ReadAt(p []byte, off int64) (int, error) {
	return nar.ReadFile(n.File, p, off, n.size)
}
