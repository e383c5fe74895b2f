package fetch

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/store"
)

// proxies are the neighbours that were asked to download the NAR for this node.
type proxies struct {
	mu        sync.Mutex // guards the rest
	asked     map[peer.ID]bool
	delivered bool // one of them does, or did
	waited    bool // for one of them, for so long that no other is asked
}

func (p *proxies) ask(nb *peers.Neighbour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[nb.ID] = true
}

// ended records for how long this node has waited for a proxy.
func (p *proxies) ended(waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waited = p.waited || waited > waitedEnough
}

func (p *proxies) delivers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delivered = true
}

// isLast reports whether no other neighbour is to be asked.
func (p *proxies) isLast() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waited || len(p.asked) >= maxProxies
}

func (p *proxies) has(nb *peers.Neighbour) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[nb.ID]
}

// backOff leaves neighbours out of assignments for a while if they were asked to download this NAR.
func (p *proxies) backOff(nbs ...*peers.Neighbour) {
	for _, nb := range nbs {
		if p.has(nb) {
			nb.Tally.BackOff(time.Now())
		}
	}
}

// origin returns the origin of a block by its sender, and the sender's name. Once a neighbour downloads the NAR for us,
// too, all relayed blocks come from that download, because before it no neighbour had them.
func (p *proxies) origin(from peer.ID) (store.Origin, string) {
	if from == fromUpstream {
		return store.FromInternet, "upstream"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.delivered || p.asked[from] {
		return store.FromOthers, from.String()
	}
	return store.FromNeighbours, from.String()
}
