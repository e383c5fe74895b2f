package ask

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/lru"
)

// A Dialer probes machines that are not neighbours. [discovery.Dialer] implements it.
type Dialer interface {
	// Miss notes that no neighbour had a path, and reports whether there are non-neighbours that may be dialled.
	Miss() bool
	// EndVisit ends the probe of a non-neighbour, which stays connected if it was useful.
	EndVisit(id peer.ID, useful bool)
}

// Visits asks non-neighbours, which are known machines that are not connected, for paths that no neighbour has. Its
// methods may be called concurrently.
type Visits struct {
	lookups *Lookups
	dialer  Dialer
	wanted  *lru.Cache[store.HashPart, time.Time] // what no neighbour had, and when
}

// NewVisits starts nothing.
func NewVisits(ls *Lookups, d Dialer) *Visits {
	return &Visits{ls, d, lru.New[store.HashPart, time.Time](maxWanted)}
}

// TryOut asks a non-neighbour for the paths that were missed lately, and ends the probe.
func (v *Visits) TryOut(ctx context.Context, nb *peers.Neighbour) {
	var asked []*lookup
	soon, cancel := context.WithTimeout(ctx, peers.InfoTimeout) // for this machine's store, which may hang
	defer cancel()
	for _, hp := range v.wanted.Keys() {
		if at, ok := v.wanted.Peek(hp); ok && time.Since(at) < discovery.WantedFor && v.lookups.Secrets.Check(soon, hp) == nil {
			l := newLookup(v.lookups.common, hp, nil, 1)
			l.brief = true
			l.ask([]*peers.Neighbour{nb})
			asked = append(asked, l)
		}
	}
	useful := false
	for _, l := range asked {
		if _, err := l.wait(ctx); err == nil {
			useful = true
			v.wanted.Remove(l.hp)
		}
	}
	v.dialer.EndVisit(nb.ID, useful)
}

// Missed starts to ask non-neighbours for a path that no neighbour has, and returns at once.
func (v *Visits) Missed(hp store.HashPart) {
	if v.dialer.Miss() {
		v.wanted.Add(hp, time.Now())
	}
}
