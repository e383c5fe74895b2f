package ask

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// ErrUnanswered says that neighbours have not answered in time, so that one of them may have what no other has.
var ErrUnanswered = errors.New("some have not answered in time")

// ErrUnreliable says that a claim is believed, and that its neighbour is not relied on for that NAR.
var ErrUnreliable = errors.New("not relied on")

// A Finding records the neighbours' answers about a hash part: the claim that was believed, and the other peers that
// made it.
type Finding struct {
	Mapping trust.Mapping

	mu      sync.Mutex       // guards the rest
	holders map[peer.ID]bool // the peers that claim it; true: still receiving the NAR
	found   time.Time        // when all neighbours were asked
}

func (f *Finding) isWhole(id peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	receiving, ok := f.holders[id]
	return ok && !receiving
}

func (f *Finding) asked() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found
}

func (f *Finding) askedNow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = time.Now()
}

func (f *Finding) add(id peer.ID, receiving bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holders == nil {
		f.holders = map[peer.ID]bool{}
	}
	f.holders[id] = receiving
}

// is reports whether a mapping is of the NAR with that hash and size. The size counts because no signature need cover
// it: a content address determines the hash alone, and with a wrong size the right blocks would look like lies.
func is(m trust.Mapping, hash store.Hash, size int64) bool {
	return m.NarHash() == hash && m.NarSize() == size
}

func parseClaim(hp store.HashPart, text string) (store.Info, error) {
	info, err := store.ParseInfo(text)
	if err == nil && info.Path.HashPart() != hp {
		err = fmt.Errorf("asked about %s, got %s: %w", hp, info.Path, peers.ErrName)
	}
	return info, err
}
