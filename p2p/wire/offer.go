package wire

import (
	"bufio"
	"fmt"

	"narbor/store"
)

// MaxOfferLen is the longest claim that is offered, less than the longest request: it has room for some 200 references.
// MaxOfferSigs is the number of its signatures: each may cost a verification, and one that counts is enough.
const MaxOfferLen, MaxOfferSigs = 16 << 10, 4

// parseOffer reads the claim of an offer, which has no line that an offer does not need.
func parseOffer(text string) (store.Info, error) {
	info, err := store.ParseInfo(text)
	switch {
	case err != nil:
		return store.Info{}, fmt.Errorf("%w: offer: %w", ErrWire, err)
	case len(text) > MaxOfferLen || !IsOffer(info) || info.String() != text:
		return store.Info{}, fmt.Errorf("%w: offer of %d bytes with %d signatures, or with a line too many", ErrWire, len(text),
			len(info.Signatures))
	}
	return info, nil
}

// IsOffer reports whether a claim can be offered, but for its length: it is signed, and has neither deriver nor content
// address.
func IsOffer(info store.Info) bool {
	return info.Deriver.IsZero() && info.CA == "" && len(info.Signatures) > 0 && len(info.Signatures) <= MaxOfferSigs
}

// ReadOffered reads the answer to an offer: whether the answerer shares the path now.
func ReadOffered(br *bufio.Reader) (here bool, err error) {
	b, err := br.ReadByte()
	if err == nil && b > 1 {
		err = fmt.Errorf("%w: offer answered by %d", ErrWire, b)
	}
	return b == 1, NoEOF(err)
}
