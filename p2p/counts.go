package p2p

import (
	"errors"
	"maps"
	"sync"

	"narbor/store"
	"narbor/trust"
)

// Reasons for which what a peer sent is not believed. They are labels of a metric: there are no others.
const (
	refusedSignature = "bad_signature" // a signature in the name of a trusted key is wrong
	refusedKey       = "untrusted_key" // no trusted key has signed it: that is no lie
	refusedHash      = "hash_mismatch"
	refusedName      = "name_mismatch" // it is about another path
	refusedFormat    = "malformed"
)

// counts is what has happened since the start.
type counts struct {
	mu      sync.Mutex // guards the rest
	refused map[string]int64
	bans    int64
}

func newCounts() *counts {
	return &counts{refused: map[string]int64{refusedSignature: 0, refusedKey: 0, refusedHash: 0, refusedName: 0, refusedFormat: 0}}
}

func (c *counts) refuse(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[reason]++
}

func (c *counts) ban() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bans++
}

func (c *counts) get() (refused map[string]int64, bans int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused), c.bans
}

// refusal returns the reason that an error stands for.
func refusal(err error) string {
	switch {
	case errors.Is(err, trust.ErrForged):
		return refusedSignature
	case errors.Is(err, trust.ErrUntrusted):
		return refusedKey
	case errors.Is(err, store.ErrCorrupt) && !errors.Is(err, errWire):
		return refusedHash
	}
	return refusedFormat
}
