package wire

import (
	"bufio"
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/s2"

	"narbor/store"
)

// blockHead is the length of a block's head in an answer: its status and its length.
const blockHead = 1 + binary.MaxVarintLen32

// A Block is a buffer for one block, packed or not, with room for what precedes it on the wire. One goroutine at a time
// owns it.
type Block struct {
	buf  []byte
	as   status
	size int // bytes on the wire, from blockHead on in buf
}

var blocks = sync.Pool{New: func() any {
	return &Block{buf: make([]byte, blockHead+max(store.BlockSize, s2.MaxEncodedLen(store.BlockSize)))}
}}

// NewBlock returns a buffer. The caller calls Free once it is of no more use.
func NewBlock() *Block { return blocks.Get().(*Block) }

// Free lets the buffer be used for another block.
func (b *Block) Free() { blocks.Put(b) }

// Room returns where the bytes of the block are to be written. It is as long as the longest block, or longer.
func (b *Block) Room() []byte { return b.buf[blockHead:] }

// Size returns the number of bytes that the block takes on the wire. It is known once the block is packed.
func (b *Block) Size() int { return b.size }

// Pack compresses the block of size bytes that was written, if that helps over a link of that pace in bytes per second;
// 0 is unknown. It takes its time for that over a slow link if spare reports that processors are idle. With unverified,
// the answer says that its sender has not verified the block.
func (b *Block) Pack(size int, pace int64, spare func() bool, unverified bool) {
	b.as, b.size = statusRaw, size
	if as := codecFor(pace); as != statusRaw {
		other := NewBlock()
		if packed, ok := (packer{as, pace, spare}).pack(b.Room()[:size], other.Room()); ok {
			b.buf, other.buf = other.buf, b.buf
			b.as, b.size = as, len(packed)
		}
		other.Free()
	}
	if unverified {
		b.as |= relayed
	}
}

// Write writes the block after Pack. The bytes before it on the wire are put right before it, so that all leaves in one
// write.
func (b *Block) Write(bw *bufio.Writer) error {
	head := binary.AppendUvarint([]byte{byte(b.as)}, uint64(b.size))
	start := blockHead - len(head)
	copy(b.buf[start:], head)
	_, err := bw.Write(b.buf[start : blockHead+b.size])
	return err
}
