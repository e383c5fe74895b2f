package nar

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

// fitZstd returns the window that the header of the first frame in r has: how many bytes back the data may refer. If
// that is more than a NAR of narSize bytes needs, it lowers the window in the header: `nix copy` does not know the size
// of the archive beforehand, and at the highest level gives small archives, too, a window of 128 MiB. It returns 0 if r
// does not begin with a frame, and most if it begins with a frame to be skipped.
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
