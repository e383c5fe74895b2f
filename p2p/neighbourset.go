package p2p

import (
	"maps"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
)

// A neighbourSet is the peers that are asked and answered. Its methods may be called concurrently.
type neighbourSet struct {
	mu   sync.Mutex // guards byID
	byID map[peer.ID]*peers.Neighbour
}

func newNeighbourSet() *neighbourSet {
	return &neighbourSet{byID: map[peer.ID]*peers.Neighbour{}}
}

func (s *neighbourSet) all() []*peers.Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.byID))
}

// get returns the neighbour with an ID, or nil.
func (s *neighbourSet) get(id peer.ID) *peers.Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// add reports whether no neighbour had that ID before.
func (s *neighbourSet) add(nb *peers.Neighbour) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[nb.ID] != nil {
		return false
	}
	s.byID[nb.ID] = nb
	return true
}

// remove returns the neighbour that it removes, or nil.
func (s *neighbourSet) remove(id peer.ID) *peers.Neighbour {
	s.mu.Lock()
	defer s.mu.Unlock()
	nb := s.byID[id]
	delete(s.byID, id)
	return nb
}
