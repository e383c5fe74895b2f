package wire

import (
	"bufio"
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/s2"

	"narbor/store"
)

const (
	// BlockHead is what precedes the bytes of a block in an answer: its status and its length.
	BlockHead = 1 + binary.MaxVarintLen32
)

// BlockBuffers holds buffers for one block, packed in whatever way, and what precedes it on the wire.
var BlockBuffers = sync.Pool{New: func() any {
	b := make([]byte, BlockHead+max(store.BlockSize, s2.MaxEncodedLen(store.BlockSize)))
	return &b
}}

// A Packed is size bytes as they go over the wire, from blockHead on in buf.
type Packed struct {
	As   Status
	Buf  *[]byte
	Size int
}

// WriteBlock writes a block. What precedes it on the wire is put right before it, so that all leaves in one write.
func WriteBlock(bw *bufio.Writer, b Packed) error {
	head := binary.AppendUvarint([]byte{byte(b.As)}, uint64(b.Size))
	start := BlockHead - len(head)
	copy((*b.Buf)[start:], head)
	_, err := bw.Write((*b.Buf)[start : BlockHead+b.Size])
	return err
}
