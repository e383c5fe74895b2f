package p2p

import (
	"narbor/p2p/p2ptest"
	"narbor/store"
)

type furtherClaim struct {
	hp   store.HashPart
	text string
}

// randomNAR returns a NAR of size bytes, or the few more that it must have.
func randomNAR(size int) []byte { return FileNAR(p2ptest.Random(max(0, size-len(FileNAR(nil))))) }
