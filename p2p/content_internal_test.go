package p2p

import (
	"encoding/binary"
	"math/rand/v2"

	"narbor/store"
)

const (
	partA = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
	partB = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
)

type furtherClaim struct {
	hp   store.HashPart
	text string
}

func random(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// randomNAR returns a NAR of size bytes, or the few more that it must have.
func randomNAR(size int) []byte { return FileNAR(random(max(0, size-len(FileNAR(nil))))) }

// words returns count hash parts of a dictionary, from a number on.
func words(from, count int) []store.HashPart {
	var out []store.HashPart
	for i := from; i < from+count; i++ {
		out = append(out, store.HashPartFromBytes([20]byte(binary.BigEndian.AppendUint64(make([]byte, 12), uint64(i)))))
	}
	return out
}
