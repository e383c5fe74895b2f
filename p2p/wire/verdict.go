package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"

	"narbor/store"
)

// A Verdict is the first byte of an answer to a request on behalf of others.
type Verdict byte

const (
	VerdictNo   Verdict = 0 // cannot tell, or will not do it
	VerdictNone Verdict = 1 // info: the upstream has none
	VerdictYes  Verdict = 2 // info: the claim follows; fetch: under way
	VerdictHere Verdict = 3 // fetch: here
)

// ReadVerdict reads the answer about a narinfo.
func ReadVerdict(br *bufio.Reader) (v Verdict, text string, err error) {
	first, err := br.ReadByte()
	if err != nil {
		return 0, "", NoEOF(err)
	}
	switch v = Verdict(first); v {
	case VerdictNo, VerdictNone:
		return v, "", nil
	case VerdictYes:
		n, err := ReadUvarint(br, store.MaxInfoLen)
		if err != nil {
			return 0, "", NoEOF(err)
		}
		text, err = readText(br, n)
		return v, text, err
	}
	return 0, "", fmt.Errorf("%w: unknown verdict %d", ErrWire, first)
}

// AppendVerdict is the inverse of [ReadVerdict].
func AppendVerdict(v Verdict, text string) []byte {
	if v != VerdictYes {
		return []byte{byte(v)}
	}
	return append(binary.AppendUvarint([]byte{byte(v)}, uint64(len(text))), text...)
}

// A Progress is how far a neighbour is that fetches: how many bytes have come from its upstreams, of all NARs, and how
// many one download brings in a second. Both are 0 unless the verdict is yes.
type Progress struct {
	Verdict   Verdict
	Got, Pace int64
}

// ReadProgress reads the answer about a fetch.
func ReadProgress(br *bufio.Reader) (Progress, error) {
	first, err := br.ReadByte()
	if err != nil {
		return Progress{}, NoEOF(err)
	}
	switch v := Verdict(first); v {
	case VerdictNo, VerdictHere:
		return Progress{Verdict: v}, nil
	case VerdictYes:
		got, err := ReadUvarint(br, store.MaxNarSize)
		if err != nil {
			return Progress{}, NoEOF(err)
		}
		pace, err := ReadUvarint(br, store.MaxNarSize)
		return Progress{v, int64(got), int64(pace)}, NoEOF(err)
	}
	return Progress{}, fmt.Errorf("%w: unknown verdict %d", ErrWire, first)
}

// AppendProgress is the inverse of [ReadProgress] for a fetch that is under way.
func AppendProgress(got, pace int64) []byte {
	b := binary.AppendUvarint([]byte{byte(VerdictYes)}, uint64(got))
	return binary.AppendUvarint(b, uint64(pace))
}
