package peers

import (
	"errors"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// Reasons for which a peer's message is not believed. They are labels of a metric: there are no others.
const (
	refusedSignature = "bad_signature" // a signature in the name of a trusted key is wrong
	refusedKey       = "untrusted_key" // no trusted key has signed it: not a lie
	refusedHash      = "hash_mismatch"
	refusedName      = "name_mismatch" // it is about another path
	refusedFormat    = "malformed"
	refusedProbing   = "probing" // it asks on and on for paths that are not here: for bans only
)

// ErrProbing is the reason of a ban for probing which paths are here.
var ErrProbing = errors.New("asks for what is not here")

// ErrName is what a peer is struck for that answers about another path.
var ErrName = errors.New("about another path")

// counts is how often something was not believed since the start, and how many bans there were, by reason.
type counts struct{ refused, bans map[string]int64 }

func newCounts() counts {
	return counts{map[string]int64{refusedSignature: 0, refusedKey: 0, refusedHash: 0, refusedName: 0, refusedFormat: 0},
		map[string]int64{refusedSignature: 0, refusedHash: 0, refusedName: 0, refusedFormat: 0, refusedProbing: 0}}
}

// refusal returns the reason that an error stands for.
func refusal(err error) string {
	switch {
	case errors.Is(err, ErrProbing):
		return refusedProbing
	case errors.Is(err, ErrName):
		return refusedName
	case errors.Is(err, trust.ErrForged):
		return refusedSignature
	case errors.Is(err, trust.ErrUntrusted):
		return refusedKey
	case errors.Is(err, store.ErrCorrupt) && !errors.Is(err, wire.ErrWire):
		return refusedHash
	}
	return refusedFormat
}
