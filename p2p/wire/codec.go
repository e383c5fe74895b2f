package wire

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"narbor/store"
)

// Store content shrinks to a half with S2, at 400 to 600 MB a second on one processor, and to 0.4 with zstd at 90 to
// 140; both give up quickly on compressed data. On a link slower than the resulting output, the link is the bottleneck,
// and compression speeds it up; on a faster one, the processor would be the bottleneck. zstd's next level takes 5 %
// fewer bytes, at two thirds of that speed, and an [effort] 7 % fewer than that.
const (
	s2Below       = 180 << 20 // bytes per second of the link: up to a gigabit and a half
	zstdBelow     = 40 << 20  // up to 300 Mbit/s
	thoroughBelow = 8 << 20   // up to 60 Mbit/s, for which a fifth of a processor suffices
)

// codecFor chooses how to send blocks over a link of that pace in bytes per second; 0 is unknown.
func codecFor(pace int64) status {
	switch {
	case pace == 0 || pace >= s2Below:
		return statusRaw
	case pace >= zstdBelow:
		return statusS2
	}
	return statusZstd
}

var fastZstd, thoroughZstd = zstdEncoders(zstd.SpeedFastest), zstdEncoders(zstd.SpeedDefault)

func zstdEncoders(level zstd.EncoderLevel) *sync.Pool {
	return &sync.Pool{New: func() any { return newZstdEncoder(level) }}
}

// zstdDecoder unpacks as many blocks at once as there are processors.
var zstdDecoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(store.BlockSize),
		zstd.WithDecoderMaxWindow(store.BlockSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil { // only for bad options
		panic(err)
	}
	return d
}()

// A packer compresses blocks for a link.
type packer struct {
	as    status
	pace  int64
	spare func() bool // reports whether processors are idle
}

// pack compresses a block into out, which has room for as much as the block. It returns false if that is not worth it:
// the block would take more than 7/8 of its length.
func (p packer) pack(block, out []byte) ([]byte, bool) {
	room := len(block) / 8 * 7
	var packed []byte
	switch p.as {
	case statusS2:
		if need := s2.MaxEncodedLen(len(block)); need > cap(out) {
			return nil, false
		}
		packed = s2.Encode(out[:cap(out)], block)
	case statusZstd:
		if p.pace < bestBelow && p.spare() {
			if packed, ok := best.pack(p.pace, block, out); ok {
				return packed, len(packed) < room
			}
		}
		encoders := fastZstd
		if p.pace < thoroughBelow {
			encoders = thoroughZstd
		}
		e := encoders.Get().(*zstd.Encoder)
		defer encoders.Put(e)
		packed = e.EncodeAll(block, out[:0])
	}
	return packed, len(packed) < room
}

// unpack is the inverse of pack. It fails unless packed unpacks to exactly len(block) bytes.
func unpack(as status, packed, block []byte) error {
	n := 0
	var err error
	switch as {
	case statusS2:
		if n, err = s2.DecodedLen(packed); err == nil && n == len(block) {
			_, err = s2.Decode(block, packed)
		}
	case statusZstd:
		var out []byte
		out, err = zstdDecoder.DecodeAll(packed, block[:0:len(block)])
		n = len(out)
	}
	if err != nil || n != len(block) {
		return fmt.Errorf("%w: a block of %d bytes unpacks to %d: %v", ErrWire, len(block), n, err)
	}
	return nil
}
