package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"narbor/store"
)

// This file implements the wire format without narbor's code: with shared code, a mistake in the format would be on
// both sides, and no test would find it.

const protocolID = "/narbor/1"

const (
	kindClaims   = 1
	kindManifest = 2
	kindBlock    = 3
	kindHave     = 4
	kindUpstream = 5
	kindFetch    = 6
)

const (
	statusGone  = 0
	statusRaw   = 1
	statusS2    = 2
	statusZstd  = 3
	statusLater = 4
	// statusRelayed is statusRaw of a NAR that is still being received.
	statusRelayed = 5
)

// maxFrame bounds the length of a request and of a claim; the format's own limits are lower.
const maxFrame = 1 << 20

// A request is what one machine asks of another.
type request struct {
	kind  byte
	parts []store.HashPart // any number for claims, one for the other kinds
	nar   store.Hash       // of all kinds but claims and upstream
	block int              // index, of kind block
}

// readRequest reads one frame.
func readRequest(br *bufio.Reader) (request, error) {
	n, err := binary.ReadUvarint(br)
	if err != nil {
		return request{}, err
	}
	if n == 0 || n > maxFrame {
		return request{}, fmt.Errorf("request of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(br, b); err != nil {
		return request{}, err
	}
	r := request{kind: b[0]}
	b = b[1:]
	if r.kind == kindClaims {
		for ; len(b) >= 20; b = b[20:] {
			r.parts = append(r.parts, store.HashPartFromBytes([20]byte(b)))
		}
		return r, nil
	}
	if r.kind > kindFetch || len(b) < 20 || r.kind != kindUpstream && len(b) < 20+36 {
		return request{}, fmt.Errorf("request of kind %d with %d bytes", r.kind, n)
	}
	r.parts = []store.HashPart{store.HashPartFromBytes([20]byte(b))}
	if r.kind == kindUpstream {
		return r, nil
	}
	copy(r.nar[:], b[20+4:])
	if r.kind == kindBlock {
		i, k := binary.Uvarint(b[20+36:])
		if k <= 0 {
			return request{}, errors.New("block request without a number")
		}
		r.block = int(i)
	}
	return r, nil
}

// frame is the inverse of readRequest.
func (r request) frame() []byte {
	b := []byte{r.kind}
	for _, hp := range r.parts {
		raw := hp.Bytes()
		b = append(b, raw[:]...)
	}
	if r.kind != kindClaims {
		b = append(append(b, 0x01, 0x55, 0x12, 0x20), r.nar[:]...)
	}
	if r.kind == kindBlock {
		b = binary.AppendUvarint(b, uint64(r.block))
	}
	return sized(b)
}

// sized prefixes b with its length.
func sized(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }

// claimAnswer returns the answer for one hash part; "" is "not here".
func claimAnswer(text string) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(text))<<1), text...)
}

// blockAnswer returns an answer with a block that is compressed as status states.
func blockAnswer(status byte, b []byte) []byte { return append([]byte{status}, sized(b)...) }

// manifestAnswer returns an answer with the digests of blocks.
func manifestAnswer(digests []store.Hash) []byte {
	b := binary.AppendUvarint(nil, uint64(len(digests)))
	for _, d := range digests {
		b = append(b, d[:]...)
	}
	return b
}

// readClaim reads the answer for one hash part.
func readClaim(br *bufio.Reader) (string, error) {
	n, err := binary.ReadUvarint(br)
	if err != nil || n>>1 > maxFrame {
		return "", errors.Join(err, errors.New("claim"))
	}
	b := make([]byte, n>>1)
	_, err = io.ReadFull(br, b)
	return string(b), err
}

// skipBlock reads the answer to a block request and returns the number of payload bytes.
func skipBlock(br *bufio.Reader) (int, error) {
	status, err := br.ReadByte()
	if err != nil || status == statusGone || status == statusLater {
		return 0, err
	}
	n, err := binary.ReadUvarint(br)
	if err != nil {
		return 0, err
	}
	return br.Discard(int(n))
}

// skipFurther reads the pushed claims at the end of an answer.
func skipFurther(br *bufio.Reader) error {
	for {
		n, err := binary.ReadUvarint(br)
		if err != nil || n == 0 {
			return err
		}
		if n > maxFrame {
			return errors.New("claim")
		}
		if _, err := br.Discard(20 + int(n)); err != nil {
			return err
		}
	}
}
