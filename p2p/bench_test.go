package p2p_test

import (
	"fmt"
	"testing"

	"narbor/store"
)

// BenchmarkFetch fetches NARs from one neighbour over loopback; both nodes share the machine. It includes hashing
// and writing to the spool.
func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{20 << 10, 1 << 20, 256 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			u := newUpstream(b)
			nar := noise(1, size)
			info := u.sign(b, "big", nar)
			dst := u.newMachine(b, nil, u.newMachine(b, memWith([]store.Info{info}, [][]byte{nar})))
			m, err := dst.Lookup(b.Context(), info.Path.HashPart())
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			for b.Loop() {
				sp, err := dst.Fetch(b.Context(), m)
				if err != nil {
					b.Fatal(err)
				}
				sp.Used()
				sp.Close()
			}
		})
	}
}

// BenchmarkLookup asks two neighbours about a path that neither has.
func BenchmarkLookup(b *testing.B) {
	u := newUpstream(b)
	absent := u.sign(b, "absent", []byte("x")).Path.HashPart()
	dst := u.newMachine(b, nil, u.newMachine(b, new(store.Mem)), u.newMachine(b, new(store.Mem)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			dst.Lookup(b.Context(), absent)
		}
	})
}
