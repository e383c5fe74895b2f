package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"

	"narbor/store"
	"narbor/trust"
)

// ProtocolID names the wire format in the package comment.
const ProtocolID protocol.ID = "/narbor/1"

const (
	hashPartBytes = 20
	cidBytes      = 36
)

// Limits on what a message may hold.
const (
	// maxRequestLen is the longest request, its length prefix not counted: a full one about claims.
	maxRequestLen = 1 + MaxClaims*hashPartBytes
	// MaxFurther is the maximum number of claims in an answer that were not asked for, and MaxFurtherLen that of the
	// bytes of their text together: two rounds of Nix, which asks for 25 paths at a time, in less than a yamux window.
	MaxFurther, MaxFurtherLen = 64, 32 << 10
	// MaxClaims is how many hash parts one request may ask for: a large closure's worth, in 20 KiB.
	MaxClaims = 1024
)

// Kind is the first byte of a request. The package comment has the format of each.
type Kind byte

const (
	AskClaims   Kind = 1
	AskManifest Kind = 2
	AskBlock    Kind = 3
	AskHave     Kind = 4
	AskUpstream Kind = 5
	AskFetch    Kind = 6
	AskWrong    Kind = 7
	AskOffer    Kind = 8
	AskFile     Kind = 9
)

// A Request is one question of a neighbour. Its kind determines which fields count.
type Request struct {
	Kind      Kind
	HashParts []store.HashPart // claims: the paths asked about; file: one that stands for the file; otherwise one, the path of the NAR
	NAR       store.Hash       // all but claims, upstream, offer and file
	Block     int              // block
	Offer     store.Info       // offer: a claim about the path that HashParts names
	File      trust.File       // file
}

// Append appends the frame of r to b.
func (r Request) Append(b []byte) []byte {
	body := []byte{byte(r.Kind)}
	switch r.Kind {
	case AskOffer:
		body = append(body, r.Offer.String()...)
		return append(binary.AppendUvarint(b, uint64(len(body))), body...)
	case AskFile:
		body = append(body, r.File.String()...)
		return append(binary.AppendUvarint(b, uint64(len(body))), body...)
	}
	for _, hp := range r.HashParts {
		raw := hp.Bytes()
		body = append(body, raw[:]...)
	}
	if r.Kind != AskClaims && r.Kind != AskUpstream {
		body = append(body, r.NAR.CID().Bytes()...)
	}
	if r.Kind == AskBlock {
		body = binary.AppendUvarint(body, uint64(r.Block))
	}
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

// ReadRequest reads one frame. It returns io.EOF only if the stream ends before the first byte of one.
func ReadRequest(br *bufio.Reader) (Request, error) {
	if _, err := br.Peek(1); err != nil {
		return Request{}, err
	}
	n, err := ReadUvarint(br, maxRequestLen)
	if err != nil {
		return Request{}, err
	}
	if n == 0 {
		return Request{}, fmt.Errorf("%w: empty request", ErrWire)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(br, body); err != nil {
		return Request{}, noEOF(err)
	}
	return parseRequest(body)
}

func parseRequest(body []byte) (Request, error) {
	r := Request{Kind: Kind(body[0])}
	body = body[1:]
	switch r.Kind {
	case AskClaims:
		if len(body) == 0 || len(body)%hashPartBytes != 0 {
			return Request{}, fmt.Errorf("%w: claims request of %d bytes", ErrWire, len(body))
		}
		for ; len(body) > 0; body = body[hashPartBytes:] {
			r.HashParts = append(r.HashParts, store.HashPartFromBytes([hashPartBytes]byte(body)))
		}
		return r, nil
	case AskUpstream:
		if len(body) != hashPartBytes {
			return Request{}, fmt.Errorf("%w: upstream request of %d bytes", ErrWire, len(body))
		}
		r.HashParts = []store.HashPart{store.HashPartFromBytes([hashPartBytes]byte(body))}
		return r, nil
	case AskOffer:
		info, err := parseOffer(string(body))
		if err != nil {
			return Request{}, err
		}
		return Request{Kind: r.Kind, HashParts: []store.HashPart{info.Path.HashPart()}, Offer: info}, nil
	case AskFile:
		f, err := trust.ParseFileAddress(string(body))
		if err != nil {
			return Request{}, fmt.Errorf("%w: %w", ErrWire, err)
		}
		return Request{Kind: r.Kind, HashParts: []store.HashPart{f.PathCalled("")}, File: f}, nil
	case AskManifest, AskBlock, AskHave, AskFetch, AskWrong:
		if len(body) < hashPartBytes+cidBytes {
			return Request{}, fmt.Errorf("%w: request of %d bytes", ErrWire, len(body))
		}
		r.HashParts = []store.HashPart{store.HashPartFromBytes([hashPartBytes]byte(body))}
		body = body[hashPartBytes:]
		c, err := cid.Cast(body[:cidBytes])
		if err == nil {
			r.NAR, err = hashOf(c)
		}
		if err != nil {
			return Request{}, fmt.Errorf("%w: %w", ErrWire, err)
		}
		return r, r.parseBlock(body[cidBytes:])
	}
	return Request{}, fmt.Errorf("%w: request of unknown kind %d", ErrWire, r.Kind)
}

// hashOf is the inverse of [store.Hash.CID]; it refuses every other kind of CID.
func hashOf(c cid.Cid) (store.Hash, error) {
	var h store.Hash
	if p := c.Prefix(); p != (cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.SHA2_256, MhLength: len(h)}) {
		return store.Hash{}, fmt.Errorf("CID %s is not raw sha2-256", c)
	}
	copy(h[:], c.Hash()[len(c.Hash())-len(h):])
	return h, nil
}

func (r *Request) parseBlock(rest []byte) error {
	if r.Kind == AskBlock {
		i, n, err := varint.FromUvarint(rest)
		if err != nil || i >= uint64(store.NumBlocks(store.MaxNarSize)) {
			return fmt.Errorf("%w: bad block number", ErrWire)
		}
		r.Block, rest = int(i), rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrWire, len(rest))
	}
	return nil
}

// ReadUvarint reads a number of at most limit. A stream that ends before it is [io.ErrUnexpectedEOF].
func ReadUvarint(br *bufio.Reader, limit uint64) (int, error) {
	n, err := varint.ReadUvarint(br)
	if errors.Is(err, varint.ErrOverflow) || errors.Is(err, varint.ErrNotMinimal) || err == nil && n > limit {
		return 0, fmt.Errorf("%w: bad length", ErrWire)
	}
	return int(n), noEOF(err)
}

// AppendClaim appends one claim of an answer; "" is "not here".
func AppendClaim(b []byte, text string, receiving bool) []byte {
	head := uint64(len(text)) << 1
	if receiving {
		head |= 1
	}
	return append(binary.AppendUvarint(b, head), text...)
}

// ReadClaim reads one claim of an answer; "" is "not here".
func ReadClaim(br *bufio.Reader) (text string, receiving bool, err error) {
	head, err := ReadUvarint(br, store.MaxInfoLen<<1|1)
	if err != nil || head == 0 {
		return "", false, err
	}
	if head == 1 {
		return "", false, fmt.Errorf("%w: nothing is being received", ErrWire)
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

// WriteFurther writes a claim that was not asked for.
func WriteFurther(bw *bufio.Writer, hp store.HashPart, text string) error {
	raw := hp.Bytes()
	b := append(binary.AppendUvarint(nil, uint64(len(text))), raw[:]...)
	_, err := bw.Write(append(b, text...))
	return err
}

// ReadFurther reads the claims that follow what was asked for, and hands each to tell.
func ReadFurther(br *bufio.Reader, tell func(hp store.HashPart, text string)) error {
	for left, room := MaxFurther, MaxFurtherLen; ; left-- {
		n, err := ReadUvarint(br, uint64(room))
		if err != nil || n == 0 {
			return err
		}
		if left == 0 {
			return fmt.Errorf("%w: more than %d claims not asked for", ErrWire, MaxFurther)
		}
		b := make([]byte, hashPartBytes+n)
		if _, err := io.ReadFull(br, b); err != nil {
			return noEOF(err)
		}
		room -= n
		tell(store.HashPartFromBytes([hashPartBytes]byte(b)), string(b[hashPartBytes:]))
	}
}

// ReadBlock reads the answer to a block request into block, which has the block's length. It returns the number of
// bytes on the wire, and whether the sender has not verified the block. The error is [store.ErrNotFound] if the holder
// has the NAR no more, and ErrLater if the block is not there yet.
func ReadBlock(br *bufio.Reader, block []byte) (wire int, unverified bool, err error) {
	first, err := br.ReadByte()
	if err != nil {
		return 0, false, noEOF(err)
	}
	switch s := status(first); {
	case s == statusGone:
		return 0, false, store.ErrNotFound
	case s == statusLater:
		return 0, false, ErrLater
	case s <= statusZstd:
		wire, err = readBlockAs(br, s, block)
		return wire, false, err
	case s <= relayed+statusZstd:
		wire, err = readBlockAs(br, s-relayed, block)
		return wire, true, err
	default:
		return 0, false, fmt.Errorf("%w: block of unknown status %d", ErrWire, s)
	}
}

func readBlockAs(br *bufio.Reader, s status, block []byte) (int, error) {
	n, err := ReadUvarint(br, store.BlockSize)
	if err != nil {
		return 0, err
	}
	if s == statusRaw {
		if n != len(block) {
			return 0, fmt.Errorf("%w: a block of %d bytes in place of %d", ErrWire, n, len(block))
		}
		_, err = io.ReadFull(br, block)
		return n, noEOF(err)
	}
	if n >= len(block) {
		return 0, fmt.Errorf("%w: a block of %d bytes takes %d compressed", ErrWire, len(block), n)
	}
	b := NewBlock()
	defer b.Free()
	packed := b.buf[:n]
	if _, err := io.ReadFull(br, packed); err != nil {
		return 0, noEOF(err)
	}
	return n, unpack(s, packed, block)
}

// ReadManifest reads the answer to a manifest request about a NAR of narSize bytes.
func ReadManifest(br *bufio.Reader, narSize int64) (store.Manifest, error) {
	want := store.NumBlocks(narSize)
	n, err := ReadUvarint(br, uint64(want))
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, store.ErrNotFound
	}
	if n != want {
		return nil, fmt.Errorf("%w: a manifest of %d blocks in place of %d", ErrWire, n, want)
	}
	var m store.Manifest // grows as it arrives: a promised length alone reserves nothing
	for range n {
		var h store.Hash
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return nil, noEOF(err)
		}
		m = append(m, h)
	}
	return m, nil
}

// A Bitmap has a bit for each block of a NAR: block i is bit i%8, counted from the lowest, of byte i/8.
type Bitmap []byte

// NewBitmap returns one for that many blocks, none of which is here.
func NewBitmap(blocks int) Bitmap { return make(Bitmap, (blocks+7)/8) }

func (b Bitmap) Has(i int) bool { return i/8 < len(b) && b[i/8]>>(i%8)&1 == 1 }
func (b Bitmap) Set(i int)      { b[i/8] |= 1 << (i % 8) }

// ReadHave reads which of the blocks of a NAR its sender has. The error is [store.ErrNotFound] if it does not have the
// NAR, nor receives it.
func ReadHave(br *bufio.Reader, blocks int) (Bitmap, error) {
	have := NewBitmap(blocks)
	n, err := ReadUvarint(br, uint64(len(have)))
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, store.ErrNotFound
	}
	if n != len(have) {
		return nil, fmt.Errorf("%w: a bitmap of %d bytes for %d blocks", ErrWire, n, blocks)
	}
	if _, err := io.ReadFull(br, have); err != nil {
		return nil, noEOF(err)
	}
	if blocks%8 != 0 && have[n-1]>>(blocks%8) != 0 {
		return nil, fmt.Errorf("%w: a bitmap of more than %d blocks", ErrWire, blocks)
	}
	return have, nil
}
