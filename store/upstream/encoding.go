package upstream

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"narbor/store"
)

// encodedWindow is the largest window of a zstd Content-Encoding, which clients of HTTP must support (RFC 9659).
const encodedWindow = 8 << 20

// decodeContent undoes the Content-Encoding of a response, which some servers use unasked: for files that they have in
// that form alone. Its length is unknown then. An encoding that narbor does not know is an error that wraps
// [store.ErrUnreadable].
func decodeContent(resp *http.Response) error {
	var open func(io.Reader) (io.Reader, error)
	switch encoding := resp.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return nil
	case "gzip", "x-gzip":
		open = func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case "br":
		open = func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil }
	case "zstd":
		open = func(r io.Reader) (io.Reader, error) {
			return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(encodedWindow))
		}
	default:
		return fmt.Errorf("%w: %w: its Content-Encoding is %.40q, and not gzip, zstd or br", store.ErrNotFound, store.ErrUnreadable,
			encoding)
	}
	resp.Body = &decodedBody{body: resp.Body, open: open}
	resp.ContentLength, resp.Uncompressed = -1, true
	return nil
}

// A decodedBody undoes a Content-Encoding as it is read: the first bytes may take a while to come.
type decodedBody struct {
	body io.ReadCloser
	open func(io.Reader) (io.Reader, error)
	r    io.Reader
	err  error
}

func (d *decodedBody) Read(p []byte) (int, error) {
	if d.r == nil && d.err == nil {
		d.r, d.err = d.open(d.body)
	}
	if d.err != nil {
		return 0, d.err
	}
	return d.r.Read(p)
}

func (d *decodedBody) Close() error {
	if z, ok := d.r.(*zstd.Decoder); ok {
		z.Close()
	}
	return d.body.Close()
}
