package rebase_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/rebase"
)

// BenchmarkWriter writes blocks of 256 KiB: the content of programs, the slowest one, and as many store paths as the
// densest archives have.
func BenchmarkWriter(b *testing.B) {
	random := make([]byte, store.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	repeated := func(s string) []byte {
		return bytes.Repeat([]byte(s), store.BlockSize/len(s)+1)[:store.BlockSize]
	}
	for _, c := range []struct {
		name  string
		block []byte
	}{
		{"random", random},
		{"zeros", make([]byte, store.BlockSize)},
		{"text", repeated("It was the best of times, it was the worst of times, it was the age of wisdom,\n")},
		{"hex", repeated("d41d8cd98f00b204e9800998ecf8427e60b725f10c9c85c70d97880dfe8191b3  ")},
		{"base32", repeated("0123456789abcdfghijklmnpqrsvwxyz")},
		{"paths", repeated(strings.Repeat("text. ", 100) + hash1 + "-foo-1.0/bin ")},
	} {
		b.Run(c.name, func(b *testing.B) {
			pairs := pairsOf(b, two)
			for range 50 {
				p := store.HashPartFromBytes([20]byte(random[len(pairs)*20:]))
				pairs = append(pairs, rebase.Pair{Old: path(b, string(p)+"-x"), New: path(b, new3+"-x")})
			}
			w := rebase.NewWriter(io.Discard, pairs)
			b.SetBytes(int64(len(c.block)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Write(c.block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
