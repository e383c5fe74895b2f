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

// idle is a machine with processors that have nothing to do.
func idle() bool { return true }

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
	const onLink = 100 * time.Millisecond
	var e effort
	pauses := func(spent time.Duration, want int) {
		t.Helper()
		e.judge(spent, onLink)
		block, room := text(1000), make([]byte, 2000)
		for got := range want + 1 {
			if _, ok := e.pack(slowest, block, room); ok != (got == want) {
				t.Fatalf("after a block that took %v of %v: packed after a pause of %d: %v, want it after %d", spent, onLink, got, ok, want)
			}
		}
	}
	pauses(75*time.Millisecond, 0)
	pauses(76*time.Millisecond, minPause)
	pauses(time.Second, minPause) // the block between was in time
	e.judge(time.Second, onLink)
	for want := 2 * minPause; want <= 2*maxPause; want *= 2 {
		e.judge(time.Second, onLink)
		if got := e.paused; got != min(want, maxPause) {
			t.Errorf("pause of %d after another block that took too long, want %d", got, min(want, maxPause))
		}
	}
	e.paused = 0
	if e.pack(1<<60, text(store.BlockSize), make([]byte, store.BlockSize)); e.paused == 0 {
		t.Error("goes on, though the link is a billion times as fast as the processor")
	}
}

func TestEffortIsForOneBlockAtATime(t *testing.T) {
	var e effort
	e.mu.Lock() // as while another block is compressed
	if _, ok := e.pack(slowest, text(1000), make([]byte, 2000)); ok {
		t.Error("packed a second block at once: each would need 34 MB")
	}
}

func TestEffortFreesItsMemory(t *testing.T) {
	var e effort
	held := func() bool {
		e.encoder.mu.Lock()
		defer e.encoder.mu.Unlock()
		return e.encoder.zstd != nil
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

func TestEffortIsForIdleProcessors(t *testing.T) {
	room := make([]byte, s2.MaxEncodedLen(store.BlockSize))
	var busy, below int
	for _, block := range ownBlocks(t, 4) {
		packed, _ := packer{statusZstd, slowest, func() bool { return false }}.pack(block, room)
		busy += len(packed)
		packed, _ = packer{statusZstd, bestBelow, idle}.pack(block, room)
		below += len(packed)
	}
	if busy != below {
		t.Errorf("a busy machine's blocks take %d bytes, want the %d of the level below", busy, below)
	}
}
