package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"testing"

	"narbor/store"
)

// memNAR is an archive in memory.
type memNAR struct{ *bytes.Reader }

func (memNAR) Close() error { return nil }

// TestFileLengthsThatOverflowAreRefused has the length of an empty file changed, so that sums of it overflow.
func TestFileLengthsThatOverflowAreRefused(t *testing.T) {
	sum := sha256.Sum256(nil)
	c := content{algo: "sha256", digest: string(sum[:]), flat: true}
	check := func(length uint64, rest int) error {
		nar := binary.LittleEndian.AppendUint64([]byte(fileHead), length)
		nar = append(append(nar, make([]byte, rest)...), fileTail...)
		return c.checkFile(memNAR{bytes.NewReader(nar)})
	}
	if err := check(0, 0); err != nil {
		t.Fatalf("an empty file: %v", err)
	}
	for _, length := range []uint64{1, 8, math.MaxInt64, math.MaxInt64 - 7, 1 << 63, store.MaxNarSize + 1} {
		for rest := range 9 {
			if err := check(length, rest); err == nil && length > uint64(rest) {
				t.Errorf("a length of %d before %d bytes is accepted", length, rest)
			}
		}
	}
	for less := uint64(1); less <= 64; less++ {
		for rest := range 9 {
			if err := check(-less, rest); err == nil {
				t.Errorf("a length of -%d before %d bytes is accepted", less, rest)
			}
		}
		for cut := 0; cut <= len(fileTail); cut++ { // the end of the archive may lie in its head
			nar := append(binary.LittleEndian.AppendUint64([]byte(fileHead), -less), fileTail[:cut]...)
			if err := c.checkFile(memNAR{bytes.NewReader(nar)}); err == nil {
				t.Errorf("a length of -%d before %d bytes of the end is accepted", less, cut)
			}
		}
	}
}
