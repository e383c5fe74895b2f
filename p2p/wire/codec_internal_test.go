package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"narbor/p2p/p2ptest"
	"narbor/store"
)

func TestPackedBlocksComeOutAsTheyWere(t *testing.T) {
	for _, as := range []status{statusS2, statusZstd} {
		for _, size := range []int{1000, 70_000, store.BlockSize} {
			for _, pace := range []int64{1 << 20, 12 << 20} {
				block, out := text(size), make([]byte, s2.MaxEncodedLen(store.BlockSize))
				packed, ok := packer{as, pace, idle}.pack(block, out)
				if !ok {
					t.Errorf("pack(%d, %d, text of %d bytes) is not worth it", as, pace, size)
					continue
				}
				got := make([]byte, size)
				if err := unpack(as, packed, got); err != nil || !bytes.Equal(got, block) {
					t.Errorf("unpack(%d, %d bytes) = %v, or other bytes", as, size, err)
				}
			}
		}
		if packed, ok := (packer{as, 0, idle}).pack(p2ptest.Random(store.BlockSize), make([]byte, s2.MaxEncodedLen(store.BlockSize))); ok {
			t.Errorf("pack(%d) of random bytes gave %d bytes, want it not worth it", as, len(packed))
		}
	}
}

// bombs are packed blocks that unpack to other than 1000 bytes, or not at all.
func bombs(t testing.TB) map[string][]byte {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	zeros := make([]byte, 64<<20)
	frame := func(as status, packed []byte) []byte {
		return append(binary.AppendUvarint([]byte{byte(as)}, uint64(len(packed))), packed...)
	}
	return map[string][]byte{
		"s2 bomb":           frame(statusS2, s2.EncodeBest(nil, zeros[:1<<20])[:900]),
		"s2 a byte longer":  frame(statusS2, s2.Encode(nil, zeros[:1001])),
		"s2 a byte shorter": frame(statusS2, s2.Encode(nil, zeros[:999])),
		"s2 huge length":    frame(statusS2, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}),
		"s2 nothing":        frame(statusS2, nil),
		"zstd bomb":         frame(statusZstd, e.EncodeAll(zeros, nil)[:900]),
		"zstd 1 MiB":        frame(statusZstd, e.EncodeAll(zeros[:1<<20], nil)),
		"zstd byte longer":  frame(statusZstd, e.EncodeAll(zeros[:1001], nil)),
		"zstd byte shorter": frame(statusZstd, e.EncodeAll(zeros[:999], nil)),
		"zstd two frames":   frame(statusZstd, e.EncodeAll(zeros[:1000], e.EncodeAll(zeros[:1000], nil))),
		"zstd nothing":      frame(statusZstd, nil),
		"zstd rubbish":      frame(statusZstd, p2ptest.Random(500)),
		"not smaller":       frame(statusS2, s2.Encode(nil, p2ptest.Random(1000))),
		"longer than raw":   frame(statusS2, make([]byte, 5000)),
	}
}

func TestBombsAreRefused(t *testing.T) {
	for name, in := range bombs(t) {
		block := make([]byte, 1000)
		if _, _, err := ReadBlock(bufio.NewReader(bytes.NewReader(in)), block); !errors.Is(err, ErrWire) {
			t.Errorf("%s: readBlock = %v, want errWire", name, err)
		}
	}
}

func TestBombsTakeNoMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would empty the pools
	block := make([]byte, 1000)
	for name, in := range bombs(t) {
		read := func() { ReadBlock(bufio.NewReader(bytes.NewReader(in)), block) }
		read() // fills the pools
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		read()
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 2<<20 { // a block of its own, and a decoder that the pool had dropped
			t.Errorf("%s: takes %d KiB", name, taken>>10)
		}
	}
}

func TestSlowLinksCompress(t *testing.T) {
	for pace, want := range map[int64]status{0: statusRaw, 1 << 20: statusZstd, 12 << 20: statusZstd, 118 << 20: statusS2,
		1 << 30: statusRaw} {
		if got := codecFor(pace); got != want {
			t.Errorf("codecFor(%d) = %d, want %d", pace, got, want)
		}
	}
}

func TestSlowestLinksGetTheFewestBytes(t *testing.T) {
	room := make([]byte, store.BlockSize)
	size := map[int64]int{}
	for _, block := range ownBlocks(t, 8) {
		for _, pace := range []int64{2 << 20, 12 << 20} {
			packed, _ := packer{codecFor(pace), pace, idle}.pack(block, room)
			size[pace] += len(packed)
		}
	}
	if size[2<<20]*100 > size[12<<20]*98 {
		t.Errorf("blocks take %d bytes over 2 MB/s, and %d over 12 MB/s, want fewer", size[2<<20], size[12<<20])
	}
}

func BenchmarkPack(b *testing.B) {
	block, out := text(store.BlockSize), make([]byte, s2.MaxEncodedLen(store.BlockSize))
	for name, pace := range map[string]int64{"s2": 118 << 20, "zstd": 12 << 20, "zstd thorough": 2 << 20} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(block)))
			for b.Loop() {
				packer{codecFor(pace), pace, idle}.pack(block, out)
			}
		})
	}
}
