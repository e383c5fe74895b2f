package store

import (
	"bufio"
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

const (
	zstdMagic = 0xfd2fb528
	// zstdSingle is the flag in a frame's header that says that there is no window: the frame's content is it.
	zstdSingle = 1 << 5
	// leastZstdWindow is the longest block of a frame: it need not refer to anything before it to be that long.
	leastZstdWindow = 128 << 10
)

// fitZstd returns how many bytes back what is compressed in r may refer: its window, as its first frame's header says. Where
// that is more than there is in a NAR of narSize bytes, the header is changed to say so: `nix copy` does not know how much is to
// come, and at the highest level makes small archives, too, as if it were 128 MiB. It returns 0 for what is no such frame,
// and most if another comes first.
func fitZstd(r *bufio.Reader, narSize, most int64) int64 {
	b, err := r.Peek(6)
	if err != nil {
		return 0 // it will not be read either
	}
	switch magic := binary.LittleEndian.Uint32(b); {
	case magic&^0xf == 0x184d2a50: // to be skipped
		return most
	case magic != zstdMagic:
		return 0
	case b[4]&zstdSingle != 0:
		var h zstd.Header
		if b, _ = r.Peek(zstd.HeaderMaxSize); h.Decode(b) != nil { // a file may be shorter
			return 0
		}
		return int64(min(h.FrameContentSize, 1<<62))
	}
	for c := byte(0); c < b[5]; c++ {
		if zstdWindow(c) >= max(narSize, leastZstdWindow) {
			b[5] = c
			break
		}
	}
	return zstdWindow(b[5])
}

// zstdWindow is in bytes.
func zstdWindow(code byte) int64 {
	base := int64(1) << (10 + code>>3)
	return base + base/8*int64(code&7)
}
