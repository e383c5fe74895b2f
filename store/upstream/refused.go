package upstream

import (
	"sync"
	"time"

	"narbor/store"
	"narbor/store/lru"
)

const (
	// refuseAfter is how often the archive of a path must have been another than the signed one for the path to count
	// as not found: the first time its narinfo may have been an old one, and is asked for again.
	refuseAfter = 2
	// refuseTime is for how long. A cache that is mended is asked again by then, and Nix remembers a miss for as long.
	refuseTime = time.Hour
)

// A refusal records that a path's archive is of no use.
type refusal struct {
	narHash store.Hash
	wrong   int
	at      time.Time
	err     error
}

// refusals are the paths of one cache with archives that are of no use.
type refusals struct {
	mu    sync.Mutex // held while an entry is changed
	paths *lru.Cache[store.HashPart, refusal]
}

// add records an archive that is of no use; sure says that there is no reason to try it again.
func (r *refusals) add(info store.Info, sure bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hp := info.Path.HashPart()
	old, ok := r.paths.Get(hp)
	if !ok || old.narHash != info.NarHash || time.Since(old.at) >= refuseTime {
		old = refusal{narHash: info.NarHash}
	}
	if old.wrong++; sure {
		old.wrong = refuseAfter
	}
	old.at, old.err = time.Now(), err
	r.paths.Add(hp, old)
}

// reason says why a path counts as not found; nil if it does not. Another NarHash is another archive.
func (r *refusals) reason(info store.Info) error {
	old, ok := r.paths.Get(info.Path.HashPart())
	if !ok || old.narHash != info.NarHash || old.wrong < refuseAfter || time.Since(old.at) >= refuseTime {
		return nil
	}
	return old.err
}
