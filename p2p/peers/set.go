package peers

import (
	"maps"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A Set is the peers that are asked and answered. Its methods may be called concurrently.
type Set struct {
	mu   sync.Mutex // guards byID
	byID map[peer.ID]*Neighbour
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{byID: map[peer.ID]*Neighbour{}}
}

// All returns the neighbours, in no order.
func (s *Set) All() []*Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.byID))
}

// Get returns the neighbour with an ID, or nil.
func (s *Set) Get(id peer.ID) *Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Add reports whether no neighbour had that ID before.
func (s *Set) Add(nb *Neighbour) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[nb.ID] != nil {
		return false
	}
	s.byID[nb.ID] = nb
	return true
}

// Remove returns the neighbour that it removes, or nil.
func (s *Set) Remove(id peer.ID) *Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	nb := s.byID[id]
	delete(s.byID, id)
	return nb
}
