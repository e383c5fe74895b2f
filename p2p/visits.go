package p2p

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/store"
)

// visits asks strangers (known machines that are not neighbours) for paths that no neighbour has. Its methods may be called
// concurrently.
type visits struct {
	lookups *lookups
	dialer  *discovery.Dialer
	wanted  *lru.Cache[store.HashPart, time.Time] // what no neighbour had, and when
}

// tryOut asks a stranger for the paths that were missed lately, and ends the visit.
func (v *visits) tryOut(ctx context.Context, nb *peers.Neighbour) {
	var asked []*lookup
	soon, cancel := context.WithTimeout(ctx, peers.InfoTimeout) // for this machine's store, which may hang
	defer cancel()
	for _, hp := range v.wanted.Keys() {
		if at, ok := v.wanted.Peek(hp); ok && time.Since(at) < discovery.WantedFor && v.lookups.secrets.Check(soon, hp) == nil {
			l := newLookup(v.lookups, hp, nil, 1)
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

// missed starts to ask strangers for a path that no neighbour has, and returns at once.
func (v *visits) missed(hp store.HashPart) {
	if v.dialer.Miss() {
		v.wanted.Add(hp, time.Now())
	}
}
