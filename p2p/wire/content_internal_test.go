package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"narbor/store"
)

const (
	partA = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
	partB = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
)

// narHash is the NarHash sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0.
func narHash(t testing.TB) store.Hash {
	h, err := store.ParseHash("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

type further struct {
	hp   store.HashPart
	text string
}

// text is compressible, as store content is.
func text(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, size+32)
	for len(b) < size {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
		b = append(b, "what store content is, too"...)
	}
	return b[:size]
}

func random(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
