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
	hashPartBytes = 20
	cidBytes      = 36
)

type requestKind byte

const (
	askClaims   requestKind = 1
	askManifest requestKind = 2
	askBlock    requestKind = 3
	askHave     requestKind = 4
	askUpstream requestKind = 5
	askFetch    requestKind = 6
	askWrong    requestKind = 7
)

// A request is one question of a neighbour. Its kind determines which fields count.
type request struct {
	kind      requestKind
	hashParts []store.HashPart // claims: the paths asked about; otherwise one, the path of the NAR
	nar       store.Hash       // all but claims and upstream
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
	// statusLater says that the block is not here yet.
	statusLater status = 4
	// relayed is a bit added to the status of a block that its sender has not verified, because the NAR is still being
	// received.
	relayed status = 4
)

// errLater says that a neighbour will have a block later.
var errLater = errors.New("not here yet")

// appendRequest appends the frame of r to b.
func appendRequest(b []byte, r request) []byte {
	body := []byte{byte(r.kind)}
	for _, hp := range r.hashParts {
		raw := hp.Bytes()
		body = append(body, raw[:]...)
	}
	if r.kind != askClaims && r.kind != askUpstream {
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
	case askUpstream:
		if len(body) != hashPartBytes {
			return request{}, fmt.Errorf("%w: upstream request of %d bytes", errWire, len(body))
		}
		r.hashParts = []store.HashPart{store.HashPartFromBytes([hashPartBytes]byte(body))}
		return r, nil
	case askManifest, askBlock, askHave, askFetch, askWrong:
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

// appendClaim appends one claim of an answer; "" is "not here".
func appendClaim(b []byte, text string, receiving bool) []byte {
	head := uint64(len(text)) << 1
	if receiving {
		head |= 1
	}
	return append(binary.AppendUvarint(b, head), text...)
}

// readClaim reads one claim of an answer; "" is "not here".
func readClaim(br *bufio.Reader) (text string, receiving bool, err error) {
	head, err := readUvarint(br, store.MaxInfoLen<<1|1)
	if err != nil || head == 0 {
		return "", false, noEOF(err)
	}
	if head == 1 {
		return "", false, fmt.Errorf("%w: nothing is being received", errWire)
	}
	text, err = readText(br, head>>1)
	return text, head&1 == 1, err
}

func readText(br *bufio.Reader, n int) (string, error) {
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

// readBlock reads the answer to a block request into block, which has the block's length. It returns the number of bytes
// on the wire, and whether the sender has not verified the block. The error is [store.ErrNotFound] if the holder has
// the NAR no more, and errLater if the block is not there yet.
func readBlock(br *bufio.Reader, block []byte) (wire int, unverified bool, err error) {
	first, err := br.ReadByte()
	if err != nil {
		return 0, false, noEOF(err)
	}
	switch s := status(first); {
	case s == statusGone:
		return 0, false, store.ErrNotFound
	case s == statusLater:
		return 0, false, errLater
	case s <= statusZstd:
		wire, err = readBlockAs(br, s, block)
		return wire, false, err
	case s <= relayed+statusZstd:
		wire, err = readBlockAs(br, s-relayed, block)
		return wire, true, err
	default:
		return 0, false, fmt.Errorf("%w: block of unknown status %d", errWire, s)
	}
}

func readBlockAs(br *bufio.Reader, s status, block []byte) (int, error) {
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

// A bitmap has a bit for each block of a NAR: block i is bit i%8, counted from the lowest, of byte i/8.
type bitmap []byte

func newBitmap(blocks int) bitmap { return make(bitmap, (blocks+7)/8) }

func (b bitmap) has(i int) bool { return i/8 < len(b) && b[i/8]>>(i%8)&1 == 1 }
func (b bitmap) set(i int)      { b[i/8] |= 1 << (i % 8) }

// readHave reads which of the blocks of a NAR its sender has. The error is [store.ErrNotFound] if it does not have the
// NAR, nor receives it.
func readHave(br *bufio.Reader, blocks int) (bitmap, error) {
	have := newBitmap(blocks)
	n, err := readUvarint(br, uint64(len(have)))
	if err != nil {
		return nil, noEOF(err)
	}
	if n == 0 {
		return nil, store.ErrNotFound
	}
	if n != len(have) {
		return nil, fmt.Errorf("%w: a bitmap of %d bytes for %d blocks", errWire, n, blocks)
	}
	if _, err := io.ReadFull(br, have); err != nil {
		return nil, noEOF(err)
	}
	if blocks%8 != 0 && have[n-1]>>(blocks%8) != 0 {
		return nil, fmt.Errorf("%w: a bitmap of more than %d blocks", errWire, blocks)
	}
	return have, nil
}

// noEOF is for places where the stream must not end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
