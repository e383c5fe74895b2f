package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-varint"

	"narbor/store"
)

// protocolID names the wire format in the package comment.
const protocolID protocol.ID = "/narbor/1"

const (
	// maxClaims is how many hash parts one request may ask for: a large closure's worth, in 20 KiB.
	maxClaims = 1024
	// maxRequestLen is the longest request in bytes, its length prefix not counted: a full claims request.
	maxRequestLen = 1 + maxClaims*hashPartBytes

	// maxFurther is how many claims an answer may hold that were not asked for, and maxFurtherLen how many bytes their
	// texts may have together: two rounds of Nix's, which asks for 25 paths at a time, in less than a window of yamux's.
	maxFurther, maxFurtherLen = 64, 32 << 10

	hashPartBytes = 20
	cidBytes      = 36
)

type requestKind byte

const (
	askClaims   requestKind = 1
	askManifest requestKind = 2
	askBlock    requestKind = 3
)

// A request is what one neighbour asks of another. Which fields count depends on the kind.
type request struct {
	kind      requestKind
	hashParts []store.HashPart // claims: what is asked for; otherwise one, the path whose NAR is meant
	nar       store.Hash       // manifest and block
	block     int              // block
}

// errWire says that the other side broke the wire format.
var errWire = errors.New("wire format violated")

// status is the first byte of the answer to a block request.
type status byte

const (
	statusGone status = 0
	statusRaw  status = 1
	statusS2   status = 2
	statusZstd status = 3
)

// appendRequest appends the frame of r to b.
func appendRequest(b []byte, r request) []byte {
	body := []byte{byte(r.kind)}
	for _, hp := range r.hashParts {
		raw := hp.Bytes()
		body = append(body, raw[:]...)
	}
	if r.kind != askClaims {
		body = append(body, r.nar.CID().Bytes()...)
	}
	if r.kind == askBlock {
		body = binary.AppendUvarint(body, uint64(r.block))
	}
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

// readRequest reads one frame. It returns io.EOF only if the stream ends before the first byte of one.
func readRequest(br *bufio.Reader) (request, error) {
	n, err := readUvarint(br, maxRequestLen)
	if err != nil {
		return request{}, err
	}
	if n == 0 {
		return request{}, fmt.Errorf("%w: empty request", errWire)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(br, body); err != nil {
		return request{}, noEOF(err)
	}
	return parseRequest(body)
}

func parseRequest(body []byte) (request, error) {
	r := request{kind: requestKind(body[0])}
	body = body[1:]
	switch r.kind {
	case askClaims:
		if len(body) == 0 || len(body)%hashPartBytes != 0 {
			return request{}, fmt.Errorf("%w: claims request of %d bytes", errWire, len(body))
		}
		for ; len(body) > 0; body = body[hashPartBytes:] {
			r.hashParts = append(r.hashParts, store.HashPartFromBytes([hashPartBytes]byte(body)))
		}
		return r, nil
	case askManifest, askBlock:
		if len(body) < hashPartBytes+cidBytes {
			return request{}, fmt.Errorf("%w: request of %d bytes", errWire, len(body))
		}
		r.hashParts = []store.HashPart{store.HashPartFromBytes([hashPartBytes]byte(body))}
		body = body[hashPartBytes:]
		c, err := cid.Cast(body[:cidBytes])
		if err == nil {
			r.nar, err = store.HashFromCID(c)
		}
		if err != nil {
			return request{}, fmt.Errorf("%w: %w", errWire, err)
		}
		return r, r.parseBlock(body[cidBytes:])
	}
	return request{}, fmt.Errorf("%w: request of unknown kind %d", errWire, r.kind)
}

func (r *request) parseBlock(rest []byte) error {
	if r.kind == askBlock {
		i, n, err := varint.FromUvarint(rest)
		if err != nil || i >= uint64(store.NumBlocks(store.MaxNarSize)) {
			return fmt.Errorf("%w: bad block number", errWire)
		}
		r.block, rest = int(i), rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes too many", errWire, len(rest))
	}
	return nil
}

// readUvarint reads a number of at most limit. It returns io.EOF only if the stream ends before its first byte.
func readUvarint(br *bufio.Reader, limit uint64) (int, error) {
	if _, err := br.Peek(1); err != nil {
		return 0, err
	}
	n, err := varint.ReadUvarint(br)
	if errors.Is(err, varint.ErrOverflow) || errors.Is(err, varint.ErrNotMinimal) || err == nil && n > limit {
		return 0, fmt.Errorf("%w: bad length", errWire)
	}
	return int(n), noEOF(err)
}

// readClaim reads one claim of an answer; "" is "not here".
func readClaim(br *bufio.Reader) (string, error) {
	n, err := readUvarint(br, store.MaxInfoLen)
	if err != nil || n == 0 {
		return "", noEOF(err)
	}
	text, err := io.ReadAll(io.LimitReader(br, int64(n))) // grows as it arrives: a promised length alone reserves nothing
	if err == nil && len(text) < n {
		err = io.ErrUnexpectedEOF
	}
	return string(text), err
}

// writeFurther writes a claim that was not asked for.
func writeFurther(bw *bufio.Writer, hp store.HashPart, text string) error {
	raw := hp.Bytes()
	b := append(binary.AppendUvarint(nil, uint64(len(text))), raw[:]...)
	_, err := bw.Write(append(b, text...))
	return err
}

// readFurther reads the claims that follow what was asked for, and hands each to tell.
func readFurther(br *bufio.Reader, tell func(hp store.HashPart, text string)) error {
	for left, room := maxFurther, maxFurtherLen; ; left-- {
		n, err := readUvarint(br, uint64(room))
		if err != nil || n == 0 {
			return noEOF(err)
		}
		if left == 0 {
			return fmt.Errorf("%w: more than %d claims not asked for", errWire, maxFurther)
		}
		b := make([]byte, hashPartBytes+n)
		if _, err := io.ReadFull(br, b); err != nil {
			return noEOF(err)
		}
		room -= n
		tell(store.HashPartFromBytes([hashPartBytes]byte(b)), string(b[hashPartBytes:]))
	}
}

// readBlock reads the answer to a block request into block, whose length is the block's, and returns how many bytes
// came for it. The error is store.ErrNotFound if the holder says that it has it no more.
func readBlock(br *bufio.Reader, block []byte) (int, error) {
	first, err := br.ReadByte()
	if err != nil {
		return 0, noEOF(err)
	}
	s := status(first)
	if s == statusGone {
		return 0, store.ErrNotFound
	}
	if s > statusZstd {
		return 0, fmt.Errorf("%w: block of unknown status %d", errWire, s)
	}
	n, err := readUvarint(br, store.BlockSize)
	if err != nil {
		return 0, noEOF(err)
	}
	if s == statusRaw {
		if n != len(block) {
			return 0, fmt.Errorf("%w: a block of %d bytes in place of %d", errWire, n, len(block))
		}
		_, err = io.ReadFull(br, block)
		return n, noEOF(err)
	}
	if n >= len(block) {
		return 0, fmt.Errorf("%w: a block of %d bytes takes %d compressed", errWire, len(block), n)
	}
	buf := blockBuffers.Get().(*[]byte)
	defer blockBuffers.Put(buf)
	packed := (*buf)[:n]
	if _, err := io.ReadFull(br, packed); err != nil {
		return 0, noEOF(err)
	}
	return n, unpack(s, packed, block)
}

// readManifest reads the answer to a manifest request about a NAR of narSize bytes.
func readManifest(br *bufio.Reader, narSize int64) (store.Manifest, error) {
	want := store.NumBlocks(narSize)
	n, err := readUvarint(br, uint64(want))
	if err != nil {
		return nil, noEOF(err)
	}
	if n == 0 {
		return nil, store.ErrNotFound
	}
	if n != want {
		return nil, fmt.Errorf("%w: a manifest of %d blocks in place of %d", errWire, n, want)
	}
	var m store.Manifest // grows as it arrives: a promised length alone reserves nothing
	for i := range n {
		b := store.Block{Size: store.BlockLen(narSize, i)}
		if _, err := io.ReadFull(br, b.Hash[:]); err != nil {
			return nil, noEOF(err)
		}
		m = append(m, b)
	}
	return m, nil
}

// noEOF is for places where the stream must not end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
