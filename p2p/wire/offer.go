package wire

import (
	"bufio"
	"fmt"

	"narbor/store"
)

// maxOfferLen is the longest claim that is offered, less than the longest request: it has room for some 200 references.
// maxOfferSigs is the number of its signatures: each may cost a verification, and one that counts is enough.
const maxOfferLen, maxOfferSigs = 16 << 10, 4

// parseOffer reads the claim of an offer, which has no line that an offer does not need.
func parseOffer(text string) (store.Info, error) {
	info, err := store.ParseInfo(text)
	switch {
	case err != nil:
		return store.Info{}, fmt.Errorf("%w: offer: %w", ErrWire, err)
	case !isOffer(info) || info.String() != text:
		return store.Info{}, fmt.Errorf("%w: offer of %d bytes with %d signatures, or with a line too many", ErrWire, len(text),
			len(info.Signatures))
	}
	return info, nil
}

// isOffer reports whether a claim can be offered: it is short, it is signed, and has neither deriver nor content address.
func isOffer(info store.Info) bool {
	short := len(info.String()) <= maxOfferLen
	return short && info.Deriver.IsZero() && info.CA == "" && len(info.Signatures) > 0 && len(info.Signatures) <= maxOfferSigs
}

// OfferOf returns a claim in the form of an offer, without content address and with few signatures.
func OfferOf(info store.Info) (store.Info, error) {
	info.CA, info.Signatures = "", info.Signatures[:min(len(info.Signatures), maxOfferSigs)]
	if !isOffer(info) {
		return store.Info{}, fmt.Errorf("%s: a claim of %d bytes with %d signatures is not offered", info.Path, len(info.String()),
			len(info.Signatures))
	}
	return info, nil
}

// ReadOffered reads the answer to an offer: whether the answerer shares the path now.
func ReadOffered(br *bufio.Reader) (here bool, err error) {
	b, err := br.ReadByte()
	if err == nil && b > 1 {
		err = fmt.Errorf("%w: offer answered by %d", ErrWire, b)
	}
	return b == 1, noEOF(err)
}
