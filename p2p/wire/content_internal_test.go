package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/store"
)

const partA, partB = p2ptest.PartA, p2ptest.PartB

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
