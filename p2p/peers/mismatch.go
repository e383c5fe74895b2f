package peers

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
	"narbor/trust"
)

// KeyMismatch is a trusted key with the name of which neighbours have signatures that do not verify with it.
type KeyMismatch struct {
	Key        string   `json:"key"`
	Neighbours []string `json:"neighbours"` // IDs, sorted
	Path       string   `json:"path"`       // the last such path
}

// maxMismatched is the number of neighbours that are remembered for one key.
const maxMismatched = 64

// mismatches is what neighbours have sent that is signed in the name of a trusted key, and does not verify with it.
// There are no more entries than trusted keys, each with at most [maxMismatched] neighbours.
type mismatches map[string]*mismatch

type mismatch struct {
	info  store.Info // the last such claim, to be checked again when the keys have changed
	peers map[peer.ID]time.Time
}

// note records a claim that [trust.ErrForged] is the answer to.
func (m mismatches) note(keys *trust.Keys, from peer.ID, info store.Info, now time.Time) {
	for _, name := range keys.NamedIn(info) {
		k := m[name]
		if k == nil {
			k = &mismatch{peers: map[peer.ID]time.Time{}}
			m[name] = k
		}
		k.forget(now)
		if _, known := k.peers[from]; known || len(k.peers) < maxMismatched {
			k.peers[from] = now
		}
		if len(info.References) <= MaxCheckedRefs || k.info.Path.IsZero() {
			k.info = info
		}
	}
}

// current returns the mismatches of the last [mismatchTime], sorted by key, of keys that are still trusted as they
// were.
func (m mismatches) current(keys *trust.Keys, now time.Time) []KeyMismatch {
	list := []KeyMismatch{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		k := m[name]
		k.forget(now)
		_, err := keys.Check(k.info)
		if len(k.peers) == 0 || !errors.Is(err, trust.ErrForged) || !slices.Contains(keys.NamedIn(k.info), name) {
			delete(m, name)
			continue
		}
		found := KeyMismatch{Key: name, Path: k.info.Path.String()}
		for id := range k.peers {
			found.Neighbours = append(found.Neighbours, id.String())
		}
		slices.Sort(found.Neighbours)
		list = append(list, found)
	}
	return list
}

// forget removes the peers without a mismatch within [mismatchTime].
func (k *mismatch) forget(now time.Time) {
	for id, last := range k.peers {
		if now.Sub(last) > mismatchTime {
			delete(k.peers, id)
		}
	}
}
