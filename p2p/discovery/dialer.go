package discovery

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// A Dialer stays connected to every announced machine that is to be a neighbour, whatever the source. All but the named
// peers are handled here: so there is one budget of dials, and one place where a machine becomes due.
type Dialer struct {
	conns   *Conns
	wake    chan struct{} // there may be something to do
	settled chan struct{}

	mu    sync.Mutex // guards known
	known *candidates
}

func newDialer(conns *Conns, kept int, round firstLook) *Dialer {
	return &Dialer{conns: conns, wake: make(chan struct{}, 1), settled: make(chan struct{}),
		known: newCandidates(conns.host.ID(), conns.connected, kept, round)}
}

// change calls f, which may change the candidates, with the lock held, and then wakes run.
func (d *Dialer) change(f func(*candidates)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d.known)
	netmon.Hint(d.wake)
}

// run dials until ctx ends.
func (d *Dialer) run(ctx context.Context) error {
	d.change(func(c *candidates) { c.round.start = time.Now() })
	var dials sync.WaitGroup
	defer dials.Wait()
	for {
		due, wait := d.step()
		for _, info := range due {
			dials.Go(func() { d.dial(ctx, info) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-time.After(wait):
		}
	}
}

// step returns the machines to dial now and the time until the next step.
func (d *Dialer) step() ([]peer.AddrInfo, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	settled := d.known.round.done
	due, wait := d.known.step(time.Now())
	if d.known.round.done && !settled {
		close(d.settled)
	}
	return due, wait
}

// dial dials a machine. If that is a visit, it lasts until ctx ends, and no longer than VisitTime.
func (d *Dialer) dial(ctx context.Context, info peer.AddrInfo) {
	err := d.conns.connect(ctx, info)
	if err != nil {
		d.conns.Log.Debug("neighbour not reached", zap.Stringer("peer", info.ID), zap.Error(err))
	}
	barred, alone := false, len(d.conns.host.Network().Peers()) == 0
	d.change(func(c *candidates) { barred = c.finished(info.ID, err, alone, time.Now()) })
	if barred {
		d.conns.Log.Warn("machines around announce themselves and cannot be reached: see narbor doctor", zap.Error(err))
	}
	if err == nil && d.Standing(info.ID).Visit {
		select {
		case <-ctx.Done():
		case <-time.After(VisitTime):
		}
		d.EndVisit(info.ID, false)
	}
}

// announce records an announcement, and wakes run if its machine is to be dialled soon.
func (d *Dialer) announce(a announcement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known.announce(a, time.Now()) {
		netmon.Hint(d.wake)
	}
}

func (d *Dialer) lose(id peer.ID) {
	d.change(func(c *candidates) { c.lose(id, time.Now()) })
}

// namedTried notes that one more of the named peers has been tried.
func (d *Dialer) namedTried() {
	d.change(func(c *candidates) { c.round.untried-- })
}

// Hear adds an address of a peer that another peer has sent, or that was remembered from an earlier stay.
func (d *Dialer) Hear(m ma.Multiaddr, via string) {
	if a, ok := d.hearsay(m, via, time.Now().Add(hearsayFor)); ok && !d.conns.connected(a.id) {
		d.announce(a)
	}
}

// hearsay takes an address of a peer that another peer has sent: one on our links, and a port that is not a router's or
// a printer's own.
func (d *Dialer) hearsay(m ma.Multiaddr, via string, expiry time.Time) (announcement, bool) {
	id, addr, ok := netmon.SplitPeerAddr(m)
	if !ok || id == d.conns.host.ID() {
		return announcement{}, false
	}
	ip, ok := netmon.IPOf(addr)
	if !ok || !d.conns.Gate.IsNeighbour(ip) {
		return announcement{}, false
	}
	return announcement{id: id, addrs: []ma.Multiaddr{addr}, expiry: expiry, via: via}, true
}

func (d *Dialer) via(id peer.ID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known.via(id)
}

func (d *Dialer) hasNonNeighbours() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known.nonNeighbours > 0
}

// Standing returns the standing of a machine.
func (d *Dialer) Standing(id peer.ID) Standing {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known.standing(id)
}

// Miss records that no neighbour has a path. It returns whether there are non-neighbours to ask.
func (d *Dialer) Miss() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	any, wake := d.known.miss(time.Now())
	if wake {
		netmon.Hint(d.wake)
	}
	return any
}

// EndVisit ends a visit, after which the machine stays connected if it was useful.
func (d *Dialer) EndVisit(id peer.ID, useful bool) {
	d.mu.Lock()
	leaves := d.known.endVisit(id, useful)
	d.mu.Unlock()
	for _, id := range leaves {
		d.conns.CloseAll(id)
	}
}
