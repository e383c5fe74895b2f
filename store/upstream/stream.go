package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

const (
	// maxWindow is how many bytes back an archive may refer: as far as xz ever does, and zstd up to level 21.
	// Archives with a larger window are left to Nix, which needs the same memory for them.
	maxWindow = 64 << 20
	// hugeUnpack is the number of bytes from which on an archive's memory is freed before another archive may take it.
	hugeUnpack = 16 << 20
	// stallTime is how long an archive may not grow by a byte before the rest of it is asked for anew.
	stallTime = 15 * time.Second
	// maxTries is how often in a row the rest of an archive is requested without progress, and retryPause the
	// delay before the second request, which doubles each time. Progress of progressStride bytes starts the count anew.
	maxTries, retryPause, progressStride = 4, 200 * time.Millisecond, 1 << 20
)

// Stream opens the archive of a path as [Cache.Info] described it, from its beginning, decompressed as it arrives.
// The caller closes it. Its bytes are unchecked, but for their number, which is info's NarSize: the caller hashes them
// before it passes them on. A connection that breaks or stalls is replaced by one that sends the rest, a bounded number
// of times. The error wraps ErrNotFound if the archive has gone, and ErrCorrupt if it cannot be info's.
func (u *Cache) Stream(ctx context.Context, info store.Info) (io.ReadCloser, error) {
	hp := info.Path.HashPart()
	p, err := u.page(ctx, hp)
	if err != nil {
		return nil, err
	}
	if p.info.NarHash != info.NarHash {
		return nil, fmt.Errorf("upstream %s: %s: %w: it has another NarHash", u, info.Path, store.ErrNotFound)
	}
	if p.info.NarSize != info.NarSize {
		return nil, fmt.Errorf("upstream %s: %s: %w: NarSize is %d, not %d", u, info.Path, store.ErrCorrupt, p.info.NarSize, info.NarSize)
	}
	if err := u.Ready(); err != nil {
		return nil, err
	}
	select {
	case u.streams <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s := &stream{body: &body{ctx: ctx, upstream: u, page: p}, left: info.NarSize}
	if err = s.body.open(); err == nil {
		err = s.unpack(ctx)
	}
	if err != nil {
		err = s.body.because(err)
		s.Close()
		return nil, err
	}
	return s, nil
}

// unpack takes the memory that unpacking needs, when that is free, and begins.
func (s *stream) unpack(ctx context.Context) (err error) {
	in := bufio.NewReaderSize(s.body, 4<<10)
	p := s.page
	if s.encoded { // which takes memory of its own, and from the first byte on
		if err := s.upstream.memory.Acquire(ctx, MaxUnpackMemory); err != nil {
			return err
		}
		s.memory = MaxUnpackMemory
	}
	need, window := nar.UnpackMemory(in, p.Compression, p.info.NarSize, maxWindow)
	if window > maxWindow {
		s.upstream.Forget(p.info.Path.HashPart())
		err := fmt.Errorf("%s: %w: %w: to unpack it takes a window of %d MiB, and there is memory for %d", p.URL, store.ErrNotFound,
			store.ErrUnreadable, window>>20, maxWindow>>20)
		s.upstream.refused.add(p.info, true, err) // so that Nix is not told again that it can be had here
		return fmt.Errorf("upstream %s: %w", s.upstream, err)
	}
	if !s.encoded {
		if err := s.upstream.memory.Acquire(ctx, need); err != nil {
			return err
		}
		s.memory = need
	}
	s.nar, err = nar.Decompress(in, p.Compression, p.info.NarSize, window)
	return err
}

// A stream is an archive as it comes. One goroutine reads it.
type stream struct {
	*body
	nar  io.ReadCloser // unpacks body
	left int64         // bytes that are still to come
	// memory is the part taken of the upstream's; Close gives it back.
	memory int64
}

// Read implements [io.Reader]. It never returns more than the archive's size, nor io.EOF before that.
func (s *stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, s.end()
	}
	n, err := s.nar.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	switch {
	case s.left == 0: // the caller checks the archive's hash
		return n, nil
	case err == io.EOF:
		err = fmt.Errorf("upstream %s: %s: %w: %d bytes are missing at the end", s.upstream, s.page.URL, store.ErrCorrupt, s.left)
	case err != nil:
		err = s.because(err)
	}
	return n, err
}

// end reads the rest of the file, which must not unpack to any more bytes. It returns io.EOF if all is well.
func (s *stream) end() error {
	switch n, err := io.CopyN(io.Discard, s.nar, 1); {
	case n > 0:
		return fmt.Errorf("upstream %s: %s: %w: unpacks to more than %d bytes", s.upstream, s.page.URL, store.ErrCorrupt,
			s.page.info.NarSize)
	case err != io.EOF:
		return s.because(err)
	}
	if _, err := io.Copy(io.Discard, s.body); err != nil { // its length is bounded
		return s.because(err)
	}
	return io.EOF
}

// Close implements [io.Closer].
func (s *stream) Close() error {
	if s.body == nil {
		return nil
	}
	if s.nar != nil {
		s.nar.Close()
		s.nar = nil
	}
	if s.memory >= hugeUnpack {
		runtime.GC() // or the next is allocated beside it
	}
	s.body.drop()
	s.upstream.memory.Release(s.memory)
	<-s.upstream.streams
	s.body = nil
	return nil
}

// A body is the file of an archive, over as many connections as it takes. It lives for one call of [Cache.Stream] and
// the reads of its result, which are given no context: so it has that of the call.
type body struct {
	ctx      context.Context
	upstream *Cache
	page     page
	encoded  bool // it has a Content-Encoding, so that there are no ranges of it

	conn  connection
	off   int64
	size  int64 // 0 is unknown
	etag  string
	tries int   // in a row
	since int64 // off when the row began
	err   error // the last, which decompressors hide
}

// A connection is one answer with a part of the file. The zero value is none.
type connection struct {
	resp    *http.Response
	cancel  context.CancelFunc
	stalled *time.Timer
}

// because returns why the file could not be read, if that is what err comes from.
func (b *body) because(err error) error {
	switch {
	case b == nil:
		return err
	case errors.Is(b.err, store.ErrCorrupt), errors.Is(b.err, store.ErrNotFound): // that says more than a deadline that passed since
		return b.err
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case b.err != nil && b.err != io.EOF:
		return b.err
	case errors.Is(err, store.ErrNotFound):
		return err
	}
	return fmt.Errorf("upstream %s: %s: %w", b.upstream, b.page.URL, err)
}

// open asks for the file from off on.
func (b *body) open() (err error) {
	defer func() { b.err = err }()
	b.drop()
	ctx, cancel := context.WithCancel(b.ctx)
	b.conn.cancel = cancel
	header := http.Header{}
	if b.off > 0 && !b.encoded {
		header.Set("Range", "bytes="+strconv.FormatInt(b.off, 10)+"-")
		if b.etag != "" {
			header.Set("If-Range", b.etag)
		}
	}
	b.conn.resp, err = b.upstream.do(ctx, b.page.URL, header)
	if b.upstream.closes(b.ctx, err); err != nil {
		return err
	}
	b.conn.stalled = time.AfterFunc(stallTime, cancel)
	defer b.conn.stalled.Stop() // the time that our reader takes does not count
	return b.check()
}

// check compares the response's range and size with the wanted ones, and skips bytes that were received before.
func (b *body) check() error {
	corrupt := func(format string, args ...any) error {
		return fmt.Errorf("upstream %s: %s: %w: %s", b.upstream, b.page.URL, store.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if b.encoded = b.conn.resp.Uncompressed; b.encoded && b.conn.resp.StatusCode == http.StatusPartialContent {
		return corrupt("a range of what is encoded")
	}
	size := b.conn.resp.ContentLength
	skip := b.off
	if b.conn.resp.StatusCode == http.StatusPartialContent {
		if !strings.HasPrefix(b.conn.resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(b.off, 10)+"-") {
			return corrupt("another range than from %d on", b.off)
		}
		if size >= 0 {
			size += b.off
		}
		skip = 0
	}
	size = max(size, 0)
	if b.size > 0 && size != b.size {
		return corrupt("it has %d bytes", size)
	}
	if size > nar.MaxPacked(b.page.info.NarSize) {
		return corrupt("%d bytes are too many for a NAR of %d", size, b.page.info.NarSize)
	}
	b.size, b.etag = size, b.conn.resp.Header.Get("ETag")
	if strings.HasPrefix(b.etag, "W/") { // no word on single bytes
		b.etag = ""
	}
	if skip > 0 { // it cannot resume, or has another file by now, which the hash will tell
		if _, err := io.CopyN(io.Discard, b.conn.resp.Body, skip); err != nil {
			return err
		}
	}
	return nil
}

// Read implements [io.Reader] for the file.
func (b *body) Read(p []byte) (int, error) {
	for {
		n, err := b.read(p)
		if n > 0 {
			return n, nil // an error comes back
		}
		if err == nil {
			continue
		}
		if err == io.EOF || !b.again(err) {
			b.err = err
			return 0, err
		}
	}
}

func (b *body) read(p []byte) (int, error) {
	if b.conn.resp == nil {
		return 0, b.err
	}
	limit := b.upstream.rate
	if limit != nil {
		p = p[:min(len(p), rateBurst)]
	}
	b.conn.stalled.Reset(stallTime)
	n, err := b.conn.resp.Body.Read(p)
	b.conn.stalled.Stop() // the wait for others' turns is not the cache's fault
	if limit != nil && n > 0 {
		if ended := b.wait(limit.ReserveN(time.Now(), n).Delay()); ended != nil {
			return 0, ended
		}
	}
	b.off += int64(n)
	b.upstream.bytes.Add(int64(n))
	most := nar.MaxPacked(b.page.info.NarSize)
	if b.size > 0 {
		most = b.size
	}
	if b.off > most {
		return 0, fmt.Errorf("upstream %s: %s: %w: more than %d bytes for a NAR of %d", b.upstream, b.page.URL, store.ErrCorrupt, most,
			b.page.info.NarSize)
	}
	if err == io.EOF && b.off < b.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// wait ends early, with an error, if the caller of [Cache.Stream] does.
func (b *body) wait(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// again opens the rest of the file after an error, if there is hope.
func (b *body) again(err error) bool {
	if b.off-b.since >= progressStride {
		b.tries, b.since = 0, b.off
	}
	for !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) && b.tries < maxTries && b.ctx.Err() == nil {
		b.tries++
		select {
		case <-time.After(retryPause << (b.tries - 1)):
		case <-b.ctx.Done():
			return false
		}
		if err = b.open(); err == nil {
			return true
		}
	}
	return false
}

// drop gives the connection back.
func (b *body) drop() {
	c := b.conn
	b.conn = connection{}
	if c.stalled != nil {
		c.stalled.Stop()
	}
	if c.cancel != nil {
		c.cancel()
	}
	if c.resp != nil {
		c.resp.Body.Close()
	}
}
