package wire

import (
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"narbor/store"
)

// bestBelow is the pace in bytes per second, 32 Mbit/s, below which the most thorough level is tried. It takes 7 %
// fewer bytes than the default level, at a fifth of its speed: 18 to 24 MB a second on one processor of 2024.
const bestBelow = 4 << 20

// A block that took more than mostShare of its time on the link says that the processor is too slow or too busy: the
// link may have waited. The level is then left alone for minPause blocks, and for twice as many, up to maxPause, if the
// next took too long again.
const (
	mostShare          = 0.75
	minPause, maxPause = 16, 4096
)

// best compresses for the slowest links.
var best effort

// An effort compresses one block at a time at zstd's most thorough level, as long as the processor has time for it: a
// slow machine takes the level below. The zero value is ready for use, by many goroutines at once.
type effort struct {
	mu      sync.Mutex // held while a block is compressed; guards paused and pause
	paused  int        // blocks to leave to the level below
	pause   int        // the latest pause, in blocks
	encoder bestEncoder
}

// A bestEncoder has an encoder with 34 MB of tables, and frees it after a garbage collection in which it was not used.
type bestEncoder struct {
	mu   sync.Mutex // guards the rest
	zstd *zstd.Encoder
	used bool // since the last garbage collection
}

// pack compresses block into out for a link of that pace. It returns false if another block is being compressed, or if
// one before took nearly as long as it spent on the link.
func (e *effort) pack(pace int64, block, out []byte) ([]byte, bool) {
	if !e.mu.TryLock() {
		return nil, false
	}
	defer e.mu.Unlock()
	if e.paused > 0 {
		e.paused--
		return nil, false
	}
	z := e.encoder.take()
	start := time.Now()
	packed := z.EncodeAll(block, out[:0])
	e.judge(time.Since(start), time.Duration(len(packed))*time.Second/time.Duration(max(pace, 1)))
	return packed, true
}

// judge pauses after a block that took too long.
func (e *effort) judge(spent, onLink time.Duration) {
	if float64(spent) <= mostShare*float64(onLink) {
		e.pause = 0
		return
	}
	e.pause = min(max(2*e.pause, minPause), maxPause)
	e.paused = e.pause
}

// take returns the encoder, and makes it if there is none.
func (e *bestEncoder) take() *zstd.Encoder {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = true
	if e.zstd == nil {
		e.zstd = newZstdEncoder(zstd.SpeedBestCompression)
		e.freeUnused()
	}
	return e.zstd
}

// freeUnused frees the encoder after the next garbage collection, unless it is used until then. The caller holds mu.
func (e *bestEncoder) freeUnused() {
	sentinel := new(*bestEncoder) // a pointer: the runtime puts small values without one together
	runtime.AddCleanup(sentinel, func(e *bestEncoder) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.used {
			e.zstd = nil
			return
		}
		e.used = false
		e.freeUnused()
	}, e)
}

func newZstdEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(store.BlockSize), zstd.WithEncoderCRC(false))
	if err != nil { // only for bad options
		panic(err)
	}
	return z
}
