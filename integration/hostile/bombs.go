package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/network"
)

func bombs() []fault {
	return []fault{
		{name: "s2-bomb", says: "S2 that unpacks to 64 MiB, and says so", block: bomb(statusS2, s2Bomb)},
		{name: "s2-lie", says: "S2 that unpacks to 64 MiB, and says that it is the block's length", block: s2Lie()},
		{name: "s2-promise", says: "S2 that promises 4 GiB, and is over",
			block: bomb(statusS2, func() []byte { return binary.AppendUvarint(nil, 1<<32-1) })},
		{name: "zstd-bomb", says: "zstd that unpacks to 1 GiB", block: bomb(statusZstd, zstdBomb)},
		{name: "zstd-window", says: "zstd that asks for a window of 2 GiB", block: bomb(statusZstd, zstdWindow)},
		{name: "zstd-promise", says: "zstd that says it unpacks to 2^62 bytes", block: bomb(statusZstd, zstdPromise)},
		{name: "zstd-many", says: "thousands of zstd frames in place of one",
			block: bomb(statusZstd, func() []byte { return bytes.Repeat(zstdFrame(0x50, 1), 4000) })},
	}
}

// bomb calls make once and sends its result in place of every block.
func bomb(status byte, make func() []byte) func(context.Context, network.Stream, archive, int, []byte) error {
	once := sync.OnceValue(make)
	return func(_ context.Context, s network.Stream, _ archive, _ int, _ []byte) error {
		_, err := s.Write(blockAnswer(status, once()))
		return err
	}
}

func s2Bomb() []byte { return bytes.Clone(s2.EncodeBest(nil, make([]byte, 64<<20))) } // without the room for the worst case

// s2Lie sends an s2Bomb with the block's length in its header.
func s2Lie() func(context.Context, network.Stream, archive, int, []byte) error {
	once := sync.OnceValue(s2Bomb)
	return func(_ context.Context, s network.Stream, _ archive, _ int, b []byte) error {
		_, n := binary.Uvarint(once())
		_, err := s.Write(blockAnswer(statusS2, append(binary.AppendUvarint(nil, uint64(len(b))), once()[n:]...)))
		return err
	}
}

func zstdBomb() []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(256<<10), zstd.WithEncoderConcurrency(1))
	if err != nil { // only for bad options
		panic(err)
	}
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		w.Write(zeros)
	}
	w.Close()
	return b.Bytes()
}

// zstdFrame is a frame (RFC 8878) of one block that repeats a zero n times. window is the descriptor of its window.
func zstdFrame(window byte, n uint32) []byte {
	const last, rle = 1, 1 << 1
	head := n<<3 | rle | last
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, window, byte(head), byte(head >> 8), byte(head >> 16), 0}
}

// zstdWindow asks for 2^(10+21) bytes.
func zstdWindow() []byte { return zstdFrame(21<<3, 1<<17) }

// zstdPromise has a content size of 8 bytes in its header.
func zstdPromise() []byte {
	head := []byte{0x28, 0xb5, 0x2f, 0xfd, 3 << 6, 0x50}
	return append(binary.LittleEndian.AppendUint64(head, 1<<62), 3, 0, 0, 0)
}
