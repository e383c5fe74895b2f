package store_test

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"

	"narbor/store"
)

// randomNAR returns the NAR of a file, the same for the same seed, and its hash. It has size bytes, or the few more
// that a NAR must have.
func randomNAR(seed uint64, size int) ([]byte, store.Hash) {
	contents := make([]byte, max(0, size-len(archive(file("")))))
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(contents)
	b := []byte(archive(file(string(contents))))
	return b, sha256.Sum256(b)
}

func readAll(t testing.TB, n store.NAR) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
