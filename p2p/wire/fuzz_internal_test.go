package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/s2"

	"narbor/store"
)

func FuzzReadRequest(f *testing.F) {
	for _, r := range goldenRequests(f) {
		f.Add(r.Append(nil))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := r.Append(nil); !bytes.HasPrefix(in, out) {
			t.Errorf("readRequest accepted %x, but %+v is written as %x", in, r, out)
		}
	})
}

func FuzzReadClaim(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		text, receiving, err := ReadClaim(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := AppendClaim(nil, text, receiving); !bytes.HasPrefix(in, out) {
			t.Errorf("readClaim accepted %x, but %q is written as %x", in, text, out)
		}
	})
}

// FuzzReadBlock reads the answer to a request for a block of size bytes.
func FuzzReadBlock(f *testing.F) {
	for _, in := range bombs(f) {
		f.Add(in, 1000)
	}
	packed, buf := make([]byte, s2.MaxEncodedLen(store.BlockSize)), make([]byte, blockHead+store.BlockSize)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 1 || size > store.BlockSize {
			return
		}
		block := buf[blockHead : blockHead+size]
		n, _, err := ReadBlock(bufio.NewReader(bytes.NewReader(in)), block)
		if err != nil {
			return
		}
		as := status(in[0]) &^ relayed
		if n > size || as != statusRaw && n == size {
			t.Errorf("readBlock(%x) takes %d bytes for a block of %d", in, n, size)
		}
		var out bytes.Buffer
		bw := bufio.NewWriter(&out)
		if err := (&Block{buf, status(in[0]), size}).Write(bw); err != nil || bw.Flush() != nil {
			t.Fatal(err)
		}
		if as == statusRaw && !bytes.HasPrefix(in, out.Bytes()) {
			t.Errorf("readBlock accepted %x, but that block is written as %x", in, out.Bytes())
		}
		for _, as := range []status{statusS2, statusZstd} {
			for _, pace := range []int64{0, thoroughBelow} {
				again := make([]byte, size)
				p, ok := packer{as, pace, idle}.pack(block, packed)
				if ok && (unpack(as, p, again) != nil || !bytes.Equal(again, block)) {
					t.Errorf("%x, packed as %d, comes out as %x", block, as, again)
				}
			}
		}
	})
}

// FuzzReadHave reads the answer to the question which of some blocks are here.
func FuzzReadHave(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, blocks int) {
		if blocks < 1 || blocks > 1<<20 {
			return
		}
		have, err := ReadHave(bufio.NewReader(bytes.NewReader(in)), blocks)
		if err != nil {
			return
		}
		out := NewBitmap(blocks)
		for i := range blocks {
			if have.Has(i) {
				out.Set(i)
			}
		}
		if out := append(binary.AppendUvarint(nil, uint64(len(out))), out...); !bytes.HasPrefix(in, out) {
			t.Errorf("readHave accepted %x, but that is written as %x", in, out)
		}
	})
}

// FuzzReadManifest reads the answer to a request for the manifest of a NAR of size bytes.
func FuzzReadManifest(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, size int64) {
		if size < 1 || size > store.MaxNarSize {
			return
		}
		m, err := ReadManifest(bufio.NewReader(bytes.NewReader(in)), size)
		if err != nil {
			return
		}
		out := binary.AppendUvarint(nil, uint64(len(m)))
		for _, h := range m {
			out = append(out, h[:]...)
		}
		if len(m) != store.NumBlocks(size) || !bytes.HasPrefix(in, out) {
			t.Errorf("readManifest(%x) of a NAR of %d bytes = %d blocks, written as %x", in, size, len(m), out)
		}
	})
}

func FuzzReadFurther(f *testing.F) {
	f.Add(appendFurther(f, goldenFurther()))
	f.Add(appendFurther(f, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		all, err := readAllFurther(in)
		if err != nil {
			return
		}
		if out := appendFurther(t, all); !bytes.HasPrefix(in, out) {
			t.Errorf("readFurther accepted %x, but %+v is written as %x", in, all, out)
		}
	})
}

func FuzzReadVerdict(f *testing.F) {
	f.Add(VerdictNo.Append(nil, ""))
	f.Add(VerdictNone.Append(nil, ""))
	f.Add(VerdictYes.Append(nil, "StorePath: x\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, text, err := ReadVerdict(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := v.Append(nil, text); !bytes.HasPrefix(in, out) || len(text) > store.MaxInfoLen {
			t.Errorf("readVerdict accepted %x, but %d with %q is written as %x", in, v, text, out)
		}
	})
}

func FuzzReadProgress(f *testing.F) {
	f.Add(Progress{Verdict: VerdictYes}.Append(nil))
	f.Add(Progress{Verdict: VerdictYes, Got: store.MaxNarSize, Pace: 1 << 20}.Append(nil))
	f.Add([]byte{byte(VerdictHere)})
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := ReadProgress(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		out := p.Append(nil)
		if !bytes.HasPrefix(in, out) || min(p.Got, p.Pace) < 0 || max(p.Got, p.Pace) > store.MaxNarSize {
			t.Errorf("readProgress accepted %x, but %+v is written as %x", in, p, out)
		}
	})
}

func FuzzReadOffered(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{1})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, in []byte) {
		here, err := ReadOffered(bufio.NewReader(bytes.NewReader(in)))
		if ok := len(in) > 0 && in[0] <= 1; (err == nil) != ok || here != (ok && in[0] == 1) {
			t.Errorf("readOffered(%x) = %t, %v", in, here, err)
		}
	})
}
