package wire

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"narbor/store"
)

// ownBlocks returns blocks of this program: machine code, as in the archives of most bytes.
func ownBlocks(t *testing.T, n int) (blocks [][]byte) {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range n {
		block := make([]byte, store.BlockSize)
		if _, err := f.ReadAt(block, int64(i+2)*store.BlockSize); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// slowest is a pace for which no machine is too slow: a byte a second.
const slowest = 1

func TestEffortTakesFewerBytes(t *testing.T) {
	var e effort
	room := make([]byte, s2.MaxEncodedLen(store.BlockSize))
	var with, without int
	for _, block := range ownBlocks(t, 8) {
		packed, ok := e.pack(slowest, block, room)
		if !ok {
			t.Fatal("not packed, though nothing else is and there is time")
		}
		with += len(packed)
		got := make([]byte, len(block))
		if err := unpack(statusZstd, packed, got); err != nil || string(got) != string(block) {
			t.Fatalf("unpack = %v, or other bytes", err)
		}
		z := thoroughZstd.New().(interface{ EncodeAll(src, dst []byte) []byte })
		without += len(z.EncodeAll(block, nil))
	}
	if with*100 > without*96 {
		t.Errorf("blocks take %d bytes, and %d at the level below; want at least 4 %% fewer", with, without)
	}
}

func TestEffortEndsWhenTheProcessorIsTooSlow(t *testing.T) {
	for name, c := range map[string]struct {
		blocks        int
		spent, onLink time.Duration
		want          bool
	}{
		"a quarter of the time":     {100, 25 * time.Millisecond, 100 * time.Millisecond, true},
		"three quarters of it":      {100, 75 * time.Millisecond, 100 * time.Millisecond, true},
		"more":                      {100, 80 * time.Millisecond, 100 * time.Millisecond, false},
		"a faster link":             {12, 25 * time.Millisecond, 10 * time.Millisecond, false},
		"a few that waited a while": {8, time.Second, 100 * time.Millisecond, true},
	} {
		var e effort
		for range c.blocks {
			if e.paused == 0 {
				e.judge(c.spent, c.onLink)
			}
		}
		block, room := text(1000), make([]byte, 2000)
		if _, ok := e.pack(slowest, block, room); ok != c.want {
			t.Errorf("%s: packed the next block: %v, want %v", name, ok, c.want)
		}
		for range pausedBlocks {
			e.pack(slowest, block, room)
		}
		if _, ok := e.pack(slowest, block, room); !ok {
			t.Errorf("%s: not tried again after %d blocks", name, pausedBlocks)
		}
	}
	var e effort
	for range 20 {
		e.pack(1<<60, text(store.BlockSize), make([]byte, store.BlockSize))
	}
	if e.paused == 0 {
		t.Error("goes on, though the link is a billion times as fast as the processor")
	}
}

func TestEffortIsForOneBlockAtATime(t *testing.T) {
	var e effort
	e.busy.Lock() // as while another block is compressed
	if _, ok := e.pack(slowest, text(1000), make([]byte, 2000)); ok {
		t.Error("packed a second block at once: each would need 34 MB")
	}
}

func TestEffortFreesItsMemory(t *testing.T) {
	var e effort
	held := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.encoder != nil
	}
	for range 2 { // it comes again after it was freed
		if e.pack(slowest, text(1000), make([]byte, 2000)); !held() {
			t.Fatal("no encoder is kept for the next block")
		}
		for i := 0; held(); i++ {
			if i > 1000 {
				t.Fatal("34 MB are still held after 1000 garbage collections without use")
			}
			runtime.GC() // the cleanup runs some time after it
		}
	}
}
