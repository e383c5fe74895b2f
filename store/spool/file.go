package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"

	"narbor/store"
)

const (
	lockName  = "lock"
	narSuffix = ".nar"
)

// sumSize is the length of the checksum of a block.
const sumSize = 4

// A draftFile is the file of a draft, and what it is to hold. It does not change.
type draftFile struct {
	file *os.File
	name string
	want store.Hash
	size int64
}

// fileSize returns the length of the file of a NAR of size bytes.
func fileSize(size int64) int64 { return size + int64(store.NumBlocks(size))*sumSize }

type fileName struct {
	want   store.Hash
	size   int64
	number uint64
}

func (n fileName) String() string {
	return fmt.Sprintf("%s-%d-%d%s", n.want.Base32(), n.size, n.number, narSuffix)
}

// parseName is the inverse of String.
func parseName(name string) (n fileName, ok bool) {
	fields := strings.Split(strings.TrimSuffix(name, narSuffix), "-")
	if len(fields) != 3 {
		return n, false
	}
	var err error
	if n.want, err = store.ParseHash("sha256:" + fields[0]); err != nil {
		return n, false
	}
	if n.size, err = strconv.ParseInt(fields[1], 10, 64); err != nil || n.size < 1 || n.size > store.MaxNarSize {
		return n, false
	}
	n.number, err = strconv.ParseUint(fields[2], 10, 63)
	return n, err == nil && n.String() == name
}

// checksum returns what stands behind a NAR for a block that is there.
func checksum(block []byte) uint32 {
	return max(1, crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli)))
}

func (f draftFile) readSums() ([]uint32, error) {
	b := make([]byte, store.NumBlocks(f.size)*sumSize)
	if _, err := f.file.ReadAt(b, f.size); err != nil {
		return nil, err
	}
	sums := make([]uint32, len(b)/sumSize)
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint32(b[i*sumSize:])
	}
	return sums, nil
}
