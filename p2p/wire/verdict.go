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
		return 0, "", noEOF(err)
	}
	switch v = Verdict(first); v {
	case VerdictNo, VerdictNone:
		return v, "", nil
	case VerdictYes:
		n, err := ReadUvarint(br, store.MaxInfoLen)
		if err != nil {
			return 0, "", err
		}
		text, err = readText(br, n)
		return v, text, err
	}
	return 0, "", fmt.Errorf("%w: unknown verdict %d", ErrWire, first)
}

// Append is the inverse of [ReadVerdict]; the text of another verdict than yes is left out.
func (v Verdict) Append(b []byte, text string) []byte {
	b = append(b, byte(v))
	if v != VerdictYes {
		return b
	}
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
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
		return Progress{}, noEOF(err)
	}
	switch v := Verdict(first); v {
	case VerdictNo, VerdictHere:
		return Progress{Verdict: v}, nil
	case VerdictYes:
		got, err := ReadUvarint(br, store.MaxNarSize)
		if err != nil {
			return Progress{}, err
		}
		pace, err := ReadUvarint(br, store.MaxNarSize)
		return Progress{v, int64(got), int64(pace)}, err
	}
	return Progress{}, fmt.Errorf("%w: unknown verdict %d", ErrWire, first)
}

// Append is the inverse of [ReadProgress].
func (p Progress) Append(b []byte) []byte {
	b = append(b, byte(p.Verdict))
	if p.Verdict != VerdictYes {
		return b
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(p.Got)), uint64(p.Pace))
}
