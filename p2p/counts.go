package p2p

import (
	"errors"
	"maps"
	"sync"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// Reasons for which what a peer sent is not believed. They are labels of a metric: there are no others.
const (
	refusedSignature = "bad_signature" // a signature in the name of a trusted key is wrong
	refusedKey       = "untrusted_key" // no trusted key has signed it: not a lie
	refusedHash      = "hash_mismatch"
	refusedName      = "name_mismatch" // it is about another path
	refusedFormat    = "malformed"
	refusedProbing   = "probing" // it asks on and on for paths that are not here: for bans only
)

// errProbing is the reason of a ban for probing which paths are here.
var errProbing = errors.New("asks for what is not here")

// errName is what a peer is struck for that answers about another path.
var errName = errors.New("about another path")

// counts is what has happened since the start.
type counts struct {
	mu      sync.Mutex // guards the rest
	refused map[string]int64
	bans    map[string]int64
}

func newCounts() *counts {
	return &counts{refused: map[string]int64{refusedSignature: 0, refusedKey: 0, refusedHash: 0, refusedName: 0, refusedFormat: 0},
		bans: map[string]int64{refusedSignature: 0, refusedHash: 0, refusedName: 0, refusedFormat: 0, refusedProbing: 0}}
}

func (c *counts) refuse(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[reason]++
}

// ban counts a ban, by the lie that was the last.
func (c *counts) ban(lie error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bans[refusal(lie)]++
}

func (c *counts) get() (refused, bans map[string]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused), maps.Clone(c.bans)
}

// refusal returns the reason that an error stands for.
func refusal(err error) string {
	switch {
	case errors.Is(err, errProbing):
		return refusedProbing
	case errors.Is(err, errName):
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
