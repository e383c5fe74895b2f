package serve

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"narbor/p2p/peers"
	"narbor/store"
)

// turns hands out a limited number of turns. The next turn goes to the waiting peer that has had the fewest of late, by
// address first and then, within one address, by peer. So a peer gets no more by asking on many streams or under many
// names, and a peer that asks now and then hardly waits.
type turns struct {
	max, perAddr, perPeer int

	mu    sync.Mutex // guards the rest
	taken int
	had   int // turns of the address served last; a new one starts with as many
	addrs map[netip.Addr]*place
}

// serving holds the turns of the peers that are served at the moment.
type serving struct {
	streams  *turns // peers with an open stream, whether they ask or not
	asking   *turns // peers that ask for claims: they do not wait until blocks have gone over a slow link
	sending  *turns // peers that are sent something else
	reading  *turns // peers for which a block is read and packed
	proxying *turns // peers for which an upstream is asked
	filing   *turns // peers that ask for files
	naming   *turns // peers for which the names of all paths are read
	rate     *rate.Limiter
}

func newServing(bytesPerSecond int64) serving {
	r := rate.Inf
	if bytesPerSecond > 0 {
		r = rate.Limit(bytesPerSecond)
	}
	return serving{
		streams:  newTurns(maxStreams, maxAddrStreams, maxPeerStreams),
		asking:   newTurns(maxServing, maxServingAddr, maxServingPeer),
		sending:  newTurns(maxServing, maxServingAddr, maxServingPeer),
		reading:  newTurns(maxUploads, maxUploads, maxUploadsPeer),
		proxying: newTurns(maxProxying, maxProxying, peers.MaxProxyingPeer),
		filing:   newTurns(maxServing, maxServingAddr, maxServingPeer),
		naming:   newTurns(maxNaming, maxNamingPeer, maxNamingPeer),
		rate:     rate.NewLimiter(r, store.BlockSize),
	}
}

// A place is an address from which a peer has a turn or waits for one.
type place struct {
	taken, had int
	latest     int // turns of the peer served last
	peers      map[peer.ID]*queue
}

type queue struct {
	taken, had int
	waiting    []chan struct{} // closed when the turn has come
}

// An Asker is a peer that wants a turn.
type Asker struct {
	Addr netip.Addr
	ID   peer.ID
}

func newTurns(all, perAddr, perPeer int) *turns {
	return &turns{max: all, perAddr: perAddr, perPeer: perPeer, addrs: map[netip.Addr]*place{}}
}

// take waits for a turn, and returns what gives it back.
func (t *turns) take(ctx context.Context, asker Asker) (done func(), err error) {
	turn := make(chan struct{})
	t.mu.Lock()
	q := t.enter(asker)
	q.waiting = append(q.waiting, turn)
	t.grant()
	t.mu.Unlock()
	select {
	case <-turn:
		return func() { t.giveBack(asker, q) }, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(q.waiting, turn)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		t.leave(asker, q)
	}
	t.mu.Unlock()
	if i < 0 { // it has come this moment
		t.giveBack(asker, q)
	}
	return nil, ctx.Err()
}

// try takes a turn if one is free.
func (t *turns) try(asker Asker) (done func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.enter(asker)
	if at := t.addrs[asker.Addr]; t.taken >= t.max || at.taken >= t.perAddr || q.taken >= t.perPeer {
		t.leave(asker, q)
		return nil, false
	}
	t.taken++
	t.addrs[asker.Addr].taken++
	q.taken++
	return func() { t.giveBack(asker, q) }, true
}

func (t *turns) giveBack(asker Asker, q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	t.addrs[asker.Addr].taken--
	q.taken--
	t.leave(asker, q)
	t.grant()
}

// enter returns the queue of an asker. The caller holds mu.
func (t *turns) enter(asker Asker) *queue {
	at := t.addrs[asker.Addr]
	if at == nil {
		at = &place{peers: map[peer.ID]*queue{}}
		t.addrs[asker.Addr] = at
	}
	at.had = max(at.had, t.had)
	q := at.peers[asker.ID]
	if q == nil {
		q = &queue{}
		at.peers[asker.ID] = q
	}
	q.had = max(q.had, at.latest)
	return q
}

// leave forgets an asker that neither has a turn nor waits. The caller holds mu.
func (t *turns) leave(asker Asker, q *queue) {
	if q.taken > 0 || len(q.waiting) > 0 {
		return
	}
	at := t.addrs[asker.Addr]
	delete(at.peers, asker.ID)
	if len(at.peers) == 0 {
		delete(t.addrs, asker.Addr)
	}
}

// grant gives away the turns that are free. The caller holds mu.
func (t *turns) grant() {
	for t.taken < t.max {
		at, q := t.next()
		if q == nil {
			return
		}
		close(q.waiting[0])
		q.waiting = q.waiting[1:]
		t.had, at.latest = max(t.had, at.had), max(at.latest, q.had)
		t.taken++
		at.taken++
		at.had++
		q.taken++
		q.had++
	}
}

// next returns the queue that has the next turn, or nil. The caller holds mu.
func (t *turns) next() (where *place, first *queue) {
	for _, at := range t.addrs {
		if at.taken >= t.perAddr || where != nil && at.had >= where.had {
			continue
		}
		if q := at.next(t.perPeer); q != nil {
			where, first = at, q
		}
	}
	return where, first
}

func (at *place) next(perPeer int) (first *queue) {
	for _, q := range at.peers {
		if len(q.waiting) > 0 && q.taken < perPeer && (first == nil || q.had < first.had) {
			first = q
		}
	}
	return first
}

func (t *turns) held() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}
