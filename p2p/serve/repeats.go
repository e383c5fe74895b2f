package serve

import (
	"hash/maphash"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
)

// repeatSlots is the number of unanswered questions that are remembered, of all peers together: half a megabyte, made
// at the first such question.
const repeatSlots = 1 << 16

// repeats tells a question that a peer repeats from one about another path, so that it counts once. A question that was
// overwritten by another one counts again. Its methods may be called concurrently.
type repeats struct {
	seed maphash.Seed

	mu    sync.Mutex // guards slots
	slots []uint64   // the question that was remembered last in each; 0 is none
}

func newRepeats() *repeats { return &repeats{seed: maphash.MakeSeed()} }

// first reports whether the question of a peer about a hash part is not remembered, and remembers it.
func (r *repeats) first(id peer.ID, hp store.HashPart) bool {
	var h maphash.Hash
	h.SetSeed(r.seed) // random, so that no peer can choose questions that share a slot
	h.WriteString(string(id))
	h.WriteString(string(hp))
	question := max(1, h.Sum64())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slots == nil {
		r.slots = make([]uint64, repeatSlots)
	}
	slot := &r.slots[question%repeatSlots]
	if *slot == question {
		return false
	}
	*slot = question
	return true
}
