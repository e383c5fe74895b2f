package nar_test

import (
	"bytes"
	"io"
	"testing"

	"narbor/store/nar"
	"narbor/store/storetest"
)

// FuzzXZGuard has xz files, and other data, in pieces of any length.
func FuzzXZGuard(f *testing.F) {
	f.Add(storetest.PackXZ(f, bytes.Repeat([]byte("abc"), 1000)), 7)
	f.Fuzz(func(t *testing.T, file []byte, piece int) {
		got, err := io.ReadAll(nar.NewXZGuard(&pieces{file, max(1, piece&0xfff)}, 1<<30))
		if !bytes.HasPrefix(file, got) || err == nil && len(got) != len(file) {
			t.Errorf("%d of %d bytes are passed on, %v", len(got), len(file), err)
		}
	})
}

// pieces yields at most n bytes at a time.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// TestXZGuardChecksEveryStream has a second stream with a dictionary for which package xz would allocate 4 GiB.
func TestXZGuardChecksEveryStream(t *testing.T) {
	data, _ := storetest.RandomNAR(7, 3<<20)
	a, b := storetest.PackXZ(t, data[:1<<20]), storetest.PackXZ(t, data[1<<20:])
	if _, err := io.Copy(io.Discard, nar.NewXZGuard(bytes.NewReader(append(bytes.Clone(a), hugeDict(b)...)),
		int64(len(data)))); err == nil {
		t.Error("the guard passes on a second stream with a dictionary of 4 GiB")
	}
}
