package nar

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"narbor/store"
)

// xzBuffers and zstdBuffers are what unpacking takes beside the window.
const xzBuffers, zstdBuffers = 256 << 10, 1 << 20

// Unpackable says whether narbor can read a NAR of that compression.
func Unpackable(compression string) bool {
	return compression == "none" || compression == "xz" || compression == "zstd"
}

// MaxPacked is how long a compressed NAR can be if its compressor was in its right mind: a little longer than the NAR.
func MaxPacked(narSize int64) int64 { return narSize + narSize/16 + 64<<10 }

// UnpackMemory returns the bytes that unpacking takes, and the window to unpack with, which is 0 but for zstd. in
// begins with the compressed NAR, of narSize bytes; a header that states more than such a NAR needs is lowered in its
// buffer.
func UnpackMemory(in *bufio.Reader, compression string, narSize, maxWindow int64) (need, window int64) {
	switch compression {
	case "xz":
		return xzBuffers + xzMemory(in, narSize), 0
	case "zstd":
		window = fitZstd(in, narSize, maxWindow)
		return zstdBuffers + window, window
	}
	return 0, 0
}

// Decompress returns a reader of the NAR, of narSize bytes, that is compressed in r. narSize bounds the memory that
// it may take, and so does window for zstd. The caller closes it. Errors wrap [store.ErrCorrupt] if they are the
// compressed data's fault.
func Decompress(r io.Reader, compression string, narSize, window int64) (io.ReadCloser, error) {
	switch compression {
	case "none":
		return io.NopCloser(r), nil
	case "xz":
		x, err := xz.NewReader(bufio.NewReaderSize(newXZGuard(r, narSize), 128<<10))
		if err != nil {
			return nil, corrupt(err)
		}
		return io.NopCloser(corruptReader{x}), nil
	case "zstd":
		in := bufio.NewReaderSize(r, 128<<10)
		fitZstd(in, narSize, window)
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(max(window, leastZstdWindow))))
		if err != nil {
			return nil, corrupt(err)
		}
		return zstdReader{corruptReader{d}, d}, nil
	}
	return nil, fmt.Errorf("compression %.40q: %w: only none, xz and zstd are supported", compression, store.ErrNotFound)
}

type zstdReader struct {
	io.Reader
	d *zstd.Decoder
}

func (z zstdReader) Close() error {
	z.d.Close()
	return nil
}

// A corruptReader tells the errors of a decompressor from those of the file that is written.
type corruptReader struct{ r io.Reader }

func (c corruptReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = corrupt(err)
	}
	return n, err
}

// corrupt adds [store.ErrCorrupt] to what a decompressor says, unless it could not read.
func corrupt(err error) error {
	var disk *os.PathError
	if errors.As(err, &disk) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
}
