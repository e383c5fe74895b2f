package nar

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// maxXZDict is the largest dictionary that an xz file may have, in the format's encoding: 64 MiB, as `xz -9`
	// makes it. Nix's own are 8 MiB.
	maxXZDict = 28

	// extraXZBlocks is how many blocks there may be besides: a small file may be made of several.
	extraXZBlocks = 16

	// minXZBlock is the least content of an xz block on average: xz's own threads cut pieces of at least 1 MiB.
	minXZBlock = 1 << 20

	// xzBuffer is more than the longest block header, which has to be seen as a whole.
	xzBuffer = 64 << 10
)

// An xzGuard passes an xz file through, and fails before it passes on what asks for more memory or for more
// dictionaries than a NAR of that size justifies: package xz allocates whatever a block header says, up to 4 GiB.
// All other errors are left for package xz to find.
type xzGuard struct {
	src      *bufio.Reader
	narSize  int64
	next     func() error // checks the part that comes next, and sets pass to its length
	pass     int64        // bytes that may be passed on without a look
	checkLen int64        // of the checksum after each block
	blocks   int64        // of all streams so far
	records  uint64       // of the index that are still to come
	index    int64        // bytes of the index so far
	dict     byte         // the first block's dictionary, as small as will do
	length   int64        // of this block's data so far
}

func newXZGuard(r io.Reader, narSize int64) *xzGuard {
	g := &xzGuard{src: bufio.NewReaderSize(r, xzBuffer), narSize: narSize}
	g.next = g.header
	return g
}

// Read implements [io.Reader].
func (g *xzGuard) Read(p []byte) (int, error) {
	for g.pass == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	n, err := g.src.Read(p[:min(int64(len(p)), g.pass)])
	g.pass -= int64(n)
	return n, err
}

// peek returns the next n bytes. The file does not end there, or is cut short.
func (g *xzGuard) peek(n int) ([]byte, error) {
	b, err := g.src.Peek(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// header looks at what the file begins with: magic, flags, CRC.
func (g *xzGuard) header() error {
	b, err := g.peek(12)
	if err != nil {
		return err
	}
	checkLen, ok := map[byte]int64{0: 0, 1: 4, 4: 8, 10: 32}[b[7]]
	if !ok {
		return fmt.Errorf("xz: check %d is not known", b[7])
	}
	g.checkLen, g.pass, g.next = checkLen, int64(len(b)), g.block
	return nil
}

// block looks at the header of a block, or finds that there are no more.
func (g *xzGuard) block() error {
	b, err := g.peek(1)
	if err != nil {
		return err
	}
	if b[0] == 0 {
		g.pass, g.index, g.next = 1, 1, g.count
		return nil
	}
	if g.blocks > g.narSize/minXZBlock+extraXZBlocks {
		return fmt.Errorf("xz: more than %d blocks for %d bytes", g.blocks, g.narSize)
	}
	if b, err = g.peek(int(b[0])*4 + 4); err != nil {
		return err
	}
	g.blocks++
	g.length, g.pass, g.next = 0, int64(len(b)), g.chunk
	dict, err := findXZDict(b[1:])
	if err != nil {
		return err
	}
	if g.blocks == 1 {
		g.dict = dictFor(b[1+dict], g.narSize)
	}
	if own := dictFor(b[1+dict], g.narSize); own > g.dict {
		return errors.New("xz: a block has a larger dictionary than the first")
	} else if own < b[1+dict] { // no more can be referred to than there is
		b[1+dict] = own
		binary.LittleEndian.PutUint32(b[len(b)-4:], crc32.ChecksumIEEE(b[:len(b)-4]))
	}
	return nil
}

// number looks at a variable-length integer of the index.
func (g *xzGuard) number() (n uint64, err error) {
	for i := range binary.MaxVarintLen64 {
		b, err := g.peek(i + 1)
		if err != nil {
			return 0, err
		}
		if b[i] < 0x80 {
			n, _ = binary.Uvarint(b)
			g.pass = int64(i + 1)
			g.index += g.pass
			return n, nil
		}
	}
	return 0, errors.New("xz: a number of the index is too long")
}

// count looks at how many records the index has.
func (g *xzGuard) count() error {
	n, err := g.number()
	if err == nil && n > uint64(g.blocks) {
		err = errors.New("xz: more records than blocks")
	}
	g.records, g.next = 2*n, g.record
	return err
}

// record looks at one of the two numbers of a record, or at the end of the index and the footer after it.
func (g *xzGuard) record() error {
	if g.records > 0 {
		g.records--
		_, err := g.number()
		return err
	}
	g.pass, g.next = -g.index&3+4+12, g.another
	return nil
}

// another looks at what follows a stream: zeros, another stream, or nothing.
func (g *xzGuard) another() error {
	b, err := g.src.Peek(4)
	if len(b) == 0 {
		return cmp.Or(err, io.EOF)
	}
	if len(b) == 4 && binary.LittleEndian.Uint32(b) == 0 {
		g.pass = 4
		return nil
	}
	return g.header()
}

// dictFor is the smallest dictionary, in the format's encoding, that is as good as code is for a NAR of narSize bytes.
func dictFor(code byte, narSize int64) byte {
	for c := byte(0); c < code; c++ {
		if dictSize(c) >= narSize {
			return c
		}
	}
	return code
}

// xzMemory is how many bytes an xz file's dictionary takes, as far as its beginning says.
func xzMemory(r *bufio.Reader, narSize int64) int64 {
	b, err := r.Peek(13)
	if err == nil && b[12] != 0 {
		b, err = r.Peek(12 + int(b[12])*4 + 4)
	}
	if err != nil || len(b) < 20 {
		return 0 // it will not be read either
	}
	at, err := findXZDict(b[13:])
	if err != nil {
		return 0
	}
	return dictSize(dictFor(b[13+at], narSize))
}

// dictSize is in bytes.
func dictSize(code byte) int64 { return int64(2|code&1) << (code/2 + 11) }

// chunk looks at a piece of LZMA2 data.
func (g *xzGuard) chunk() error {
	b, err := g.peek(1)
	if err != nil {
		return err
	}
	control := b[0]
	if control == 0 { // that was the last
		g.length++
		g.pass, g.next = 1+(-g.length&3)+g.checkLen, g.block
		return nil
	}
	head := 2 // size of an uncompressed chunk
	if control >= 0xc0 {
		head = 5 // uncompressed size, compressed size, new properties
	} else if control >= 0x80 {
		head = 4
	}
	if b, err = g.peek(1 + head); err != nil {
		return err
	}
	size := b[1:3]
	if head >= 4 {
		size = b[3:5]
	}
	g.pass = int64(1+head) + int64(binary.BigEndian.Uint16(size)) + 1
	g.length += g.pass
	return nil
}

// findXZDict checks a block header from the byte after its size on, and returns the index of the dictionary's size.
func findXZDict(b []byte) (at int, err error) {
	whole := len(b)
	flags, b := b[0], b[1:]
	for _, present := range []byte{0x40, 0x80} { // compressed and uncompressed size, as variable-length integers
		if flags&present != 0 {
			_, k := binary.Uvarint(b)
			if k <= 0 {
				return 0, errors.New("xz: block header is cut short")
			}
			b = b[k:]
		}
	}
	if len(b) < 3 || b[0] != 0x21 || b[1] != 1 {
		return 0, errors.New("xz: another filter than LZMA2")
	}
	if b[2] > maxXZDict {
		return 0, errors.New("xz: the dictionary is larger than 64 MiB")
	}
	return whole - len(b) + 2, nil
}
