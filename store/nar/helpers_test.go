package nar_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/ulikunitz/xz"

	"narbor/store"
)

func packXZ(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const hpCurl = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")

// randomNAR returns the NAR of a file, the same for the same seed, and its hash. It has size bytes, or the few more
// that a NAR must have.
func randomNAR(seed uint64, size int) ([]byte, store.Hash) {
	contents := make([]byte, max(0, size-len(archive(file("")))))
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(contents)
	b := []byte(archive(file(string(contents))))
	return b, sha256.Sum256(b)
}

// hugeDict changes the dictionary size in the first block of an xz file to 4 GiB.
func hugeDict(file []byte) []byte {
	file = bytes.Clone(file)
	at := bytes.Index(file[12:], []byte{0x21, 1})
	file[12+at+2] = 40
	return file
}
