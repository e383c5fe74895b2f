package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"narbor/p2p/discovery"
)

const simPort = 6273

var errRefused = errors.New("connection refused")

// A simNet is a LAN in memory. Its latency and rates are in synctest's simulated time.
type simNet struct {
	raws sync.WaitGroup // the running simMachine.raw functions

	mu       sync.Mutex // guards the rest
	machines map[netip.Addr]*simMachine
	next     int                             // port of the next connection
	dials    map[netip.Addr][]netip.AddrPort // the addresses that each machine has dialled
}

func newSimNet() *simNet {
	return &simNet{machines: map[netip.Addr]*simMachine{}, next: 20000, dials: map[netip.Addr][]netip.AddrPort{}}
}

// A simMachine is a machine on the LAN. Its latency and rate apply to everything that it sends.
type simMachine struct {
	net   *simNet
	addr  netip.Addr
	found chan *zeroconf.ServiceEntry

	mu       sync.Mutex // guards the rest
	latency  time.Duration
	rate     int64           // bytes per second
	accepted chan manet.Conn // incoming connections; nil if the machine does not listen
	raw      func(net.Conn)  // serves incoming connections in place of libp2p; nil leaves them to libp2p
	asleep   bool            // bytes from this machine do not arrive
	woken    chan struct{}   // closed when asleep becomes false
	conns    []*simConn
	limits   network.ResourceManager // the resource manager of the machine's libp2p host
}

// add puts a machine on the LAN.
func (n *simNet) add(addr string, latency time.Duration, rate int64) *simMachine {
	m := &simMachine{net: n, addr: netip.MustParseAddr(addr), found: make(chan *zeroconf.ServiceEntry, 4096), latency: latency, rate: rate}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.machines[m.addr] = m
	return m
}

// config returns the settings of a node on this LAN.
func (m *simMachine) config() *discovery.Net {
	return &discovery.Net{Addr: netip.PrefixFrom(m.addr, 16), Transport: m.transport, Found: m.found}
}

// sleep delays everything that the machine sends until wake.
func (m *simMachine) sleep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.asleep {
		m.asleep, m.woken = true, make(chan struct{})
	}
}

func (m *simMachine) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asleep {
		m.asleep = false
		close(m.woken)
	}
}

// awake returns a channel that is closed when the machine wakes up, or nil if it is not asleep.
func (m *simMachine) awake() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asleep {
		return m.woken
	}
	return nil
}

// connect makes a connection to a machine. It returns errRefused if the machine does not listen on that port. If no
// machine has the address, connect waits until ctx ends.
func (m *simMachine) connect(ctx context.Context, to netip.AddrPort) (*simConn, error) {
	m.net.mu.Lock()
	other := m.net.machines[to.Addr()]
	m.net.next++
	port := m.net.next
	m.net.dials[m.addr] = append(m.net.dials[m.addr], to)
	m.net.mu.Unlock()
	if other == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	other.mu.Lock()
	accepted, raw := other.accepted, other.raw
	other.mu.Unlock()
	if accepted == nil || to.Port() != simPort {
		return nil, errRefused
	}
	out, in := newPipe(m), newPipe(other)
	near := &simConn{in: in, out: out, local: netip.AddrPortFrom(m.addr, uint16(port)), remote: to}
	far := &simConn{in: out, out: in, local: to, remote: near.local}
	m.keep(near)
	other.keep(far)
	if raw != nil {
		m.net.raws.Go(func() {
			raw(far)
			far.Close()
		})
		return near, nil
	}
	select {
	case accepted <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *simMachine) keep(c *simConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, c)
}

// transport is libp2p's over this LAN.
func (m *simMachine) transport(u transport.Upgrader, limits network.ResourceManager) (transport.Transport, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limits = limits
	return simTransport{m, u, limits}, nil
}

type simTransport struct {
	machine *simMachine
	up      transport.Upgrader
	limits  network.ResourceManager
}

func (simTransport) CanDial(a ma.Multiaddr) bool {
	_, err := manet.ToNetAddr(a)
	return err == nil
}
func (simTransport) Protocols() []int { return []int{ma.P_TCP} }
func (simTransport) Proxy() bool      { return false }

func (t simTransport) Dial(ctx context.Context, to ma.Multiaddr, id peer.ID) (transport.CapableConn, error) {
	scope, err := t.limits.OpenConnection(network.DirOutbound, true, to)
	if err != nil {
		return nil, err
	}
	c, err := t.dial(ctx, to, id, scope)
	if err != nil {
		scope.Done()
	}
	return c, err
}

func (t simTransport) dial(
	ctx context.Context, to ma.Multiaddr, id peer.ID, scope network.ConnManagementScope,
) (transport.CapableConn, error) {
	if err := scope.SetPeer(id); err != nil {
		return nil, err
	}
	addr, err := manet.ToNetAddr(to)
	if err != nil {
		return nil, err
	}
	at := addr.(*net.TCPAddr).AddrPort()
	c, err := t.machine.connect(ctx, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	if err != nil {
		return nil, err
	}
	return t.up.Upgrade(ctx, t, c, network.DirOutbound, id, scope)
}

func (t simTransport) Listen(a ma.Multiaddr) (transport.Listener, error) {
	if _, err := a.ValueForProtocol(ma.P_IP6); err == nil {
		return nil, errors.New("this LAN has no IPv6")
	}
	l := &simListener{machine: t.machine, accepted: make(chan manet.Conn, 64), closed: make(chan struct{})}
	t.machine.mu.Lock()
	t.machine.accepted = l.accepted
	t.machine.mu.Unlock()
	return t.up.UpgradeGatedMaListener(t, t.up.GateMaListener(l)), nil
}

type simListener struct {
	machine  *simMachine
	accepted chan manet.Conn
	once     sync.Once
	closed   chan struct{}
}

func (l *simListener) Accept() (manet.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error {
	l.once.Do(func() {
		l.machine.mu.Lock()
		l.machine.accepted = nil
		l.machine.mu.Unlock()
		close(l.closed)
	})
	return nil
}

func (l *simListener) Multiaddr() ma.Multiaddr { return tcpMultiaddr(l.machine.at()) }
func (l *simListener) Addr() net.Addr          { return net.TCPAddrFromAddrPort(l.machine.at()) }

func (m *simMachine) at() netip.AddrPort { return netip.AddrPortFrom(m.addr, simPort) }

func tcpMultiaddr(a netip.AddrPort) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("/ip4/%s/tcp/%d", a.Addr(), a.Port()))
}

// A simConn is one end of a connection.
type simConn struct {
	in, out       *pipe
	local, remote netip.AddrPort
}

func (c *simConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *simConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *simConn) Close() error {
	c.out.close(false)
	c.in.close(true) // a pending read must return at once, because its caller may hold a lock
	return nil
}

func (c *simConn) LocalAddr() net.Addr                { return net.TCPAddrFromAddrPort(c.local) }
func (c *simConn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.remote) }
func (c *simConn) LocalMultiaddr() ma.Multiaddr       { return tcpMultiaddr(c.local) }
func (c *simConn) RemoteMultiaddr() ma.Multiaddr      { return tcpMultiaddr(c.remote) }
func (c *simConn) SetReadDeadline(t time.Time) error  { c.in.until(&c.in.readBy, t); return nil }
func (c *simConn) SetWriteDeadline(t time.Time) error { c.out.until(&c.out.writeBy, t); return nil }

func (c *simConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// entry is the machine's announcement.
func (m *simMachine) entry(id peer.ID) *zeroconf.ServiceEntry {
	return announced(fmt.Sprintf("%s/ip4/%s/tcp/%d/p2p/%s", addrPrefix, m.addr, simPort, id))
}

func announced(texts ...string) *zeroconf.ServiceEntry {
	return &zeroconf.ServiceEntry{Text: texts, Expiry: time.Now().Add(time.Hour)}
}
