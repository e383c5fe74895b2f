package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// maxXZDict is the largest dictionary that an xz file may have, in the format's encoding: 64 MiB, as `xz -9`
	// makes it. Nix's own are 8 MiB.
	maxXZDict = 28

	// minXZBlock is the least content of an xz block on average: xz's own threads cut pieces of at least 1 MiB.
	minXZBlock = 1 << 20
)

// checkXZ reads through an xz file without unpacking anything and fails if it asks for more memory or for more
// dictionaries than a NAR of that size justifies: package xz allocates whatever a block header says, up to 4 GiB.
// What else may be wrong is left for package xz to find.
func checkXZ(r *bufio.Reader, narSize int64) error {
	var header [12]byte // magic, flags, CRC
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	checkLen, ok := map[byte]int{0: 0, 1: 4, 4: 8, 10: 32}[header[7]]
	if !ok {
		return fmt.Errorf("xz: check %d is not known", header[7])
	}
	for blocks := int64(0); ; blocks++ {
		size, err := r.ReadByte()
		if err != nil {
			return err
		}
		if size == 0 { // the index: no more blocks
			return nil
		}
		if blocks > narSize/minXZBlock {
			return fmt.Errorf("xz: more than %d blocks for %d bytes", blocks, narSize)
		}
		if err := checkXZHeader(r, int(size)*4+3); err != nil {
			return err
		}
		n, err := skipLZMA2(r)
		if err != nil {
			return err
		}
		if _, err := r.Discard(int(-n&3) + checkLen); err != nil {
			return err
		}
	}
}

// checkXZHeader reads what follows the size byte of a block header, n bytes, and checks the dictionary's size.
func checkXZHeader(r *bufio.Reader, n int) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	flags, b := b[0], b[1:]
	for _, present := range []byte{0x40, 0x80} { // compressed and uncompressed size, as variable-length integers
		if flags&present != 0 {
			_, k := binary.Uvarint(b)
			if k <= 0 {
				return errors.New("xz: block header is cut short")
			}
			b = b[k:]
		}
	}
	if len(b) < 3 || b[0] != 0x21 || b[1] != 1 {
		return errors.New("xz: another filter than LZMA2")
	}
	if b[2] > maxXZDict {
		return errors.New("xz: the dictionary is larger than 64 MiB")
	}
	return nil
}

// skipLZMA2 reads LZMA2 data, chunk by chunk, to its end, and returns its length.
func skipLZMA2(r *bufio.Reader) (length int64, err error) {
	for {
		control, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		length++
		if control == 0 {
			return length, nil
		}
		head := 2 // size of an uncompressed chunk
		if control >= 0xc0 {
			head = 5 // uncompressed size, compressed size, new properties
		} else if control >= 0x80 {
			head = 4
		}
		var b [5]byte
		if _, err := io.ReadFull(r, b[:head]); err != nil {
			return 0, err
		}
		size := int(b[0])<<8 + int(b[1]) + 1
		if head >= 4 {
			size = int(b[2])<<8 + int(b[3]) + 1
		}
		if _, err := r.Discard(size); err != nil {
			return 0, err
		}
		length += int64(head + size)
	}
}
