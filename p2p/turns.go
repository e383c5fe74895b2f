package p2p

import (
	"context"
	"net/netip"
	"sync"
)

// turns holds a token for each answer under way. Claims have their own: who asks for them waits for a moment only,
// and not until blocks have gone over a slow link.
type turns struct{ claims, blocks chan struct{} }

func newTurns(n int) turns { return turns{make(chan struct{}, n), make(chan struct{}, n)} }

func (t turns) of(r request) chan struct{} {
	if r.kind == askClaims {
		return t.claims
	}
	return t.blocks
}

// takeTurns waits for a turn of each kind, in order, and returns what gives them back.
func takeTurns(ctx context.Context, r request, all ...turns) (done func(), err error) {
	var taken []chan struct{}
	done = func() {
		for _, turn := range taken {
			<-turn
		}
	}
	for _, t := range all {
		select {
		case t.of(r) <- struct{}{}:
			taken = append(taken, t.of(r))
		case <-ctx.Done():
			done()
			return nil, ctx.Err()
		}
	}
	return done, nil
}

// addrTurns are the turns of the addresses from which something is asked at the moment.
type addrTurns struct {
	mu  sync.Mutex // guards all
	all map[netip.Addr]*addrTurn
}

type addrTurn struct {
	turns
	askers int
}

// enter returns the turns of an address. The asker leaves when it has its answer.
func (a *addrTurns) enter(addr netip.Addr) turns {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.all[addr]
	if t == nil {
		t = &addrTurn{turns: newTurns(maxServingAddr)}
		a.all[addr] = t
	}
	t.askers++
	return t.turns
}

func (a *addrTurns) leave(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.all[addr]
	if t.askers--; t.askers == 0 {
		delete(a.all, addr)
	}
}
