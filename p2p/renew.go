package p2p

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multistream"
	"go.uber.org/zap"
)

const (
	// sleepMin is how long nothing may have run, give or take a clockTick, before that counts as sleep. Connections
	// outlive less, and a busy machine may well stall for a second or two.
	sleepMin = 4 * time.Second
	// stepMin is by how much the wall clock must be set before that is worth a word: less is what a radio or the
	// network corrects now and then.
	stepMin = time.Minute
)

// A reading is what the clocks say at one moment.
type reading struct {
	wall time.Time     // without a monotonic part
	mono time.Duration // stands still while the machine sleeps, but not while the process is stopped
	boot time.Duration // never stands still; 0 where the system has no such clock
}

func readClocks(start time.Time) reading {
	now := time.Now()
	return reading{wall: now.Round(0), mono: now.Sub(start), boot: bootClock()}
}

// since returns for how long, between two ticks, nothing has run; and by how much the wall clock was set. Both are 0 if
// it is not worth a word.
func (r reading) since(last reading) (slept, set time.Duration) {
	ran := r.mono - last.mono
	passed := ran
	if r.boot != 0 {
		passed = max(passed, r.boot-last.boot)
	}
	set = r.wall.Sub(last.wall) - passed
	if r.boot == 0 && set > 0 { // the wall clock alone knows of sleep
		passed, set = passed+set, 0
	}
	if slept = passed - min(ran, clockTick); slept < sleepMin {
		slept = 0
	}
	if set.Abs() < stepMin {
		set = 0
	}
	return slept, set
}

// watchClocks notices, until ctx ends, that this machine or this process was asleep, and that its clock was set: a
// virtual machine that was moved or restored knows of no other sign.
func (l *lan) watchClocks(ctx context.Context) error {
	set := make(chan struct{}, 1)
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { followClock(ctx, l.log, set) })
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	start := time.Now()
	last := readClocks(start)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-set:
		}
		now := readClocks(start)
		slept, set := now.since(last)
		last = now
		if slept > 0 {
			l.log.Info("this machine slept; looking for neighbours anew", zap.Duration("dur", slept))
		}
		if set != 0 {
			l.log.Warn("the clock of this machine was set: what it had logged before has the wrong time", zap.Duration("by", set))
		}
		if slept > 0 || set != 0 {
			l.renew()
		}
	}
}

// A renewal holds the state that must be renewed because it may be stale.
type renewal struct {
	look  chan struct{} // the interfaces are to be looked at
	stale atomic.Bool   // and announced on even if they are as before
	probe chan struct{} // there are suspects

	mu       sync.Mutex // guards suspects
	suspects map[network.Conn]bool
}

func newRenewal() *renewal {
	return &renewal{look: make(chan struct{}, 1), probe: make(chan struct{}, 1), suspects: make(map[network.Conn]bool)}
}

// renew has everything done anew that a sleep may have made stale: the interfaces are looked at, this machine is
// announced, and neighbours are asked whether they are still there.
func (l *lan) renew() {
	l.renewal.stale.Store(true)
	hint(l.renewal.look)
}

// suspect has connections probed.
func (r *renewal) suspect(conns []network.Conn) {
	r.mu.Lock()
	for _, c := range conns {
		r.suspects[c] = true
	}
	r.mu.Unlock()
	hint(r.probe)
}

// take returns the suspects and clears the list.
func (r *renewal) take() map[network.Conn]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := r.suspects
	r.suspects = make(map[network.Conn]bool)
	return conns
}

// connsAt returns the connections with a local address of one of the links.
func (l *lan) connsAt(links []link) (conns []network.Conn) {
	here := make(map[netip.Addr]bool)
	for _, k := range links {
		for _, p := range k.addrs {
			here[p.Addr()] = true
		}
	}
	for _, c := range l.host.Network().Conns() {
		if a, ok := ipOf(c.LocalMultiaddr()); ok && here[a.WithZone("")] {
			conns = append(conns, c)
		}
	}
	return conns
}

// probeSuspects closes suspected connections that do not answer, until ctx ends. TCP and yamux would find out too, but
// after most of the time in which a neighbour is to be back.
func (l *lan) probeSuspects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.renewal.probe:
		}
		var probes sync.WaitGroup
		for c := range l.renewal.take() {
			probes.Go(func() {
				if !isAlive(ctx, c) && ctx.Err() == nil {
					l.log.Debug("connection is dead", zap.Stringer("peer", c.RemotePeer()))
					l.discard(c)
				}
			})
		}
		probes.Wait()
	}
}

// isAlive reports whether the other side of a connection is there: it answers within [probeTimeout], or has closed the
// connection or the stream itself.
func isAlive(ctx context.Context, c network.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return ctx.Err() == nil
	}
	defer s.Reset()
	if err := s.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return true
	}
	err = multistream.SelectProtoOrFail(ping.ID, s) // agreeing on a protocol is a round trip
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}
