package spool

import (
	"narbor/store"
	"narbor/store/flight"
)

// maxLingering bounds the fetches that go on without a caller: as many NARs as Nix fetches at once. Beyond it, a fetch
// ends with its last caller.
const maxLingering = 16

type (
	// Fetches are the NARs that are on their way into a spool, whatever they are fetched for: one fetch of each at a time.
	Fetches = flight.Group[store.Hash, *NAR]
	// A Fetch is one caller's part in a fetch.
	Fetch = flight.Waiter[store.Hash, *NAR]
	// A Call is a caller's way to get a NAR.
	Call = flight.Call[*NAR]
)

// NewFetches returns the fetches into a spool, of which there is one. What get returns is not fetched: it is the spool's Get, or
// nil.
func NewFetches(get func(store.Hash) (*NAR, bool)) *Fetches {
	return &Fetches{Here: get, MaxLingering: maxLingering}
}
