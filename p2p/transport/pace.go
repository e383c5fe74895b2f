package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	manet "github.com/multiformats/go-multiaddr/net"

	"narbor/p2p/netmon"
)

// Limits of what lies in queues to a peer, in bytes, and of the wait for it.
const (
	// queueMin may lie in queues to a peer: it keeps a slow link busy while the next block is read and compressed. A
	// block of any length may follow once the queue is at most queueMin/2, and at most what the link passes in
	// queueTime.
	queueMin = 128 << 10
	// sharedMin and sharedMax bound what may lie in queues on all connections to one address, if they are several: what
	// one machine with one connection has there while it fetches as fast as it can. So a machine gets no more of our
	// link and our processors for having many.
	sharedMin, sharedMax = 512 << 10, 2 << 20
	// queueTime is how much of a link's time blocks may lie in queues on this side of it. A neighbour's question about
	// claims is answered behind them, and it waits 250 ms at most, maybe while several others fetch, too. queuePatience
	// bounds the wait for a queue to drain, whatever the kernel says, and sharedPatience that for the queues of all
	// connections to one address.
	queueTime, queuePatience, sharedPatience = 20 * time.Millisecond, 250 * time.Millisecond, time.Second
)

// paceFresh is how long a measured pace is used before the kernel is asked again: many blocks, and a fraction of
// what a transfer worth speeding up takes.
const paceFresh = 100 * time.Millisecond

// paceSamples is of how many measurements the slowest counts. On a link of 1 Gbit/s every fourth or so is of a burst
// that something on the way let through at once.
const paceSamples = 3

// paces knows the rate of the TCP connections under libp2p's, as the kernel measures it from acknowledgements: that is
// the rate of the link, even while a processor or the other side's disk limits the transfer. libp2p does not expose its
// connections, so they are recorded as they come.
type paces struct {
	mu    sync.Mutex // guards conns, and their fields
	conns map[string]*pace
}

type pace struct {
	raw     syscall.RawConn
	addr    netip.Addr // of the other side
	asked   time.Time
	samples [paceSamples]int64 // bytes per second; 0 is unknown
	next    int                // the index of the oldest sample
	written int64              // bytes of blocks given to libp2p
	before  int64              // bytes acknowledged that were not of blocks, as far as is known
	acked   int64              // bytes acknowledged
	moved   time.Time          // when acked grew last
	left    int64              // what queued returned last
	looked  time.Time          // when queued was called last
	fed     time.Time          // when written grew last
}

func newPaces() *paces { return &paces{conns: map[string]*pace{}} }

// DialContext connects, and notes the connection.
func (p *paces) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if m, err := manet.WrapNetConn(conn); err == nil {
		p.add(m)
	}
	return conn, nil
}

// add notes a connection, if it is one that the kernel can be asked about, and forgets those that are closed.
func (p *paces) add(c network.ConnMultiaddrs) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, old := range p.conns {
		if old.raw.Control(func(uintptr) {}) != nil {
			delete(p.conns, key)
		}
	}
	addr, _ := netmon.IPOf(c.RemoteMultiaddr())
	p.conns[paceKey(c)] = &pace{raw: raw, addr: addr}
}

// Watch makes the kernel detect when the other machine of a connection has gone. libp2p sets slower timeouts while it
// makes a connection, so this is for afterwards.
func (p *paces) Watch(c network.ConnMultiaddrs) error {
	p.mu.Lock()
	found := p.conns[paceKey(c)]
	p.mu.Unlock()
	if found == nil {
		return nil // not a socket
	}
	var err error
	return errors.Join(found.raw.Control(func(fd uintptr) { err = watchOver(int(fd)) }), err)
}

func paceKey(c network.ConnMultiaddrs) string {
	return c.LocalMultiaddr().String() + " " + c.RemoteMultiaddr().String()
}

// Pace returns the rate of a connection in bytes per second; 0 is unknown.
func (p *paces) Pace(c network.ConnMultiaddrs) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.conns[paceKey(c)]
	if found == nil {
		return 0
	}
	if time.Since(found.asked) > paceFresh {
		found.asked = time.Now()
		if d, err := found.delivery(); err == nil && d.rate > 0 {
			found.sample(d.rate)
		}
	}
	return found.bytesPerSecond()
}

func (p *pace) sample(rate int64) {
	p.samples[p.next] = rate
	p.next = (p.next + 1) % paceSamples
}

func (p *pace) bytesPerSecond() (slowest int64) {
	for _, s := range p.samples {
		if s > 0 && (slowest == 0 || s < slowest) {
			slowest = s
		}
	}
	return slowest
}

// SinceAck returns how long ago the other machine of a connection acknowledged something; ok is false if the kernel
// does not know. A machine does so by itself while its programs wait for a processor.
func (p *paces) SinceAck(c network.ConnMultiaddrs) (ago time.Duration, ok bool) {
	p.mu.Lock()
	found := p.conns[paceKey(c)]
	p.mu.Unlock()
	if found == nil {
		return 0, false
	}
	var err error
	e := found.raw.Control(func(fd uintptr) { ago, err = sinceAck(int(fd)) })
	return ago, e == nil && err == nil
}

// Admit waits until size more bytes may be written to a connection: libp2p and the kernel would take megabytes, and
// later writes would wait for seconds on a slow link. All connections to one address share the room, so that a machine
// gets no more of the link by opening many. The wait is short: at worst the queue grows.
func (p *paces) Admit(ctx context.Context, c network.ConnMultiaddrs, size int) {
	p.mu.Lock()
	found := p.conns[paceKey(c)]
	p.mu.Unlock()
	if found == nil {
		return
	}
	for start := time.Now(); ctx.Err() == nil; {
		own, shared := p.fits(found, size)
		waited := time.Since(start)
		if (own || waited > queuePatience) && (shared || waited > sharedPatience) {
			break
		}
		select {
		case <-time.After(queueTime / 8):
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	found.written += int64(size)
	found.fed = time.Now()
}

// fits says whether there is room in the queue of a connection, and in those of all to its address.
func (p *paces) fits(c *pace, size int) (own, shared bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	queued, rate, known := c.queued()
	if !known {
		return true, true
	}
	all := queued
	for _, other := range p.conns {
		if other == c || other.addr != c.addr || other.written == 0 {
			continue
		}
		if time.Since(other.looked) > queueTime/8 {
			other.queued()
		}
		if time.Since(other.moved) < paceFresh { // otherwise it does not delay others
			all += other.left
		}
	}
	room := rate * int64(queueTime) / int64(time.Second)
	own = admits(queued, int64(size), room)
	return own, all == queued || all+int64(size) <= min(max(sharedMin, room), sharedMax)
}

// admits reports whether a block of size bytes may be written to a connection with that many queued bytes. room is the
// number of bytes that its link passes in queueTime.
func admits(queued, size, room int64) bool {
	return queued <= min(queueMin/2, room) || queued+size <= max(queueMin, room)
}

// queued returns how many bytes of blocks were written and not acknowledged, and how fast others were; known is false
// if the kernel does not know. The caller holds the mutex of all paces.
func (c *pace) queued() (n, rate int64, known bool) {
	d, err := c.delivery()
	if err != nil || d.rate == 0 {
		return 0, 0, false
	}
	if d.acked != c.acked {
		c.acked, c.moved = d.acked, time.Now()
	}
	c.looked = time.Now()
	n = c.written - (d.acked - c.before)
	// Bytes other than blocks were acknowledged, too, or a stream was reset before its block was sent.
	if n < 0 || d.idle && time.Since(c.fed) > queueTime {
		c.before -= n
		n = 0
	}
	c.left = n
	return n, d.rate, true
}

func (c *pace) delivery() (d delivery, err error) {
	if e := c.raw.Control(func(fd uintptr) { d, err = deliveryOf(int(fd)) }); e != nil {
		return d, e
	}
	return d, err
}
