package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/mdlayher/vsock"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// A virtual machine and its host reach each other by vsock(7), without any network. Every machine there has a number,
// its context ID, which is [vsock.Host] for the host; narbor listens at the number of its TCP port. There is no
// multiaddr for that, so libp2p is given IPv6 stand-ins, as for link-local addresses: with a tag of their own and the
// context ID. All that is counted by address is so counted by machine, too.

const (
	// vsockAny is VMADDR_CID_ANY: whatever number this machine has.
	vsockAny = 1<<32 - 1
	// vsockDevice is there once the kernel has vsock, which it loads when there is a hypervisor, or a guest.
	vsockDevice = "/sys/class/misc/vsock"
	// vsockPrefix begins the text of a vsock address, vsock:CID:PORT, as systemd writes it.
	vsockPrefix = "vsock:"
)

// hostPeer is the machine that this one is a guest of. Its text is not one that the user may give.
func hostPeer() *namedPeer {
	return &namedPeer{text: "host by vsock", from: fromVsock, cid: vsock.Host, port: defaultPort,
		hurry: make(chan struct{}, 1), lost: make(chan struct{}, 1)}
}

// hasVsock reports whether the kernel has vsock. It is not asked for a socket: that would have it loaded.
func hasVsock() bool {
	_, err := os.Stat(vsockDevice)
	return err == nil
}

// lookForVsock begins to look for a host, and listens for guests, once there is vsock. It is called by follow alone.
func (l *lan) lookForVsock() {
	if !l.vsock || !hasVsock() {
		return
	}
	l.added.keepHost(l)
	err := l.listenVsock()
	if err != nil && !l.vsockFailed {
		l.log.Info("guests cannot reach this machine by vsock", zap.Error(err))
	}
	l.vsock, l.vsockFailed = err != nil, err != nil
}

// keepHost looks for this machine's host from now on.
func (a *added) keepHost(l *lan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if named := l.namedNow(); !slices.ContainsFunc(named, func(n *namedPeer) bool { return n.from == fromVsock }) {
		l.setNamed(append(named, hostPeer()))
	}
}

func (l *lan) listenVsock() error {
	addr, err := netmon.TCPAddr(l.gate.vsockAddr(vsockAny), listenPort(l.host))
	if err != nil {
		return err
	}
	sw, ok := l.host.Network().(*swarm.Swarm)
	if !ok {
		return fmt.Errorf("listen: %T is not a swarm", l.host.Network())
	}
	return l.gate.plainError(sw.AddListenAddr(addr))
}

// parseVsock parses what follows vsock: in the name of a peer, CID or CID:PORT.
func (n *namedPeer) parseVsock(text string) error {
	id, port, ok := strings.Cut(text, ":")
	cid, err := strconv.ParseUint(id, 10, 32)
	if err != nil || cid < vsock.Host || cid == vsockAny {
		return fmt.Errorf("%q is not the context ID of a machine: 2 is the host, guests have greater ones", id)
	}
	n.cid = uint32(cid)
	if !ok {
		return nil
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return fmt.Errorf("%q is not a port", port)
	}
	n.port = uint16(p)
	return nil
}

// vsockAddr returns what stands for the machine with a context ID.
func (g *gater) vsockAddr(cid uint32) netip.Addr {
	var b [16]byte
	copy(b[:], g.cids[:])
	binary.BigEndian.PutUint32(b[12:], cid)
	return netip.AddrFrom16(b)
}

// cidOf is vsockAddr's inverse.
func (g *gater) cidOf(a netip.Addr) (cid uint32, ok bool) {
	b := a.As16()
	cid = binary.BigEndian.Uint32(b[12:])
	return cid, a == g.vsockAddr(cid)
}

func (g *gater) isVsock(a netip.Addr) bool {
	_, ok := g.cidOf(a)
	return ok
}

// text prints an address, without stand-ins.
func (g *gater) text(m ma.Multiaddr) string { return g.plain(m.String()) }

// A carrier is libp2p's TCP, which dials whatever [gater.DialContext] does, and which listens for vsock, too.
type carrier struct {
	*tcp.TcpTransport
	gate *gater
	up   transport.Upgrader
}

// Listen implements [transport.Transport].
func (c carrier) Listen(m ma.Multiaddr) (transport.Listener, error) {
	a, _ := netmon.IPOf(m)
	cid, ok := c.gate.cidOf(a)
	port, pok := netmon.TCPPort(m)
	if !ok || !pok {
		return c.TcpTransport.Listen(m)
	}
	l, err := vsock.ListenContextID(cid, uint32(port), nil)
	if err != nil {
		return nil, err
	}
	wrapped, err := manet.WrapNetListener(vsockListener{l, c.gate})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return c.up.UpgradeGatedMaListener(c, c.up.GateMaListener(wrapped)), nil
}

// dialVsock connects to a machine on the same hypervisor.
func (g *gater) dialVsock(ctx context.Context, cid uint32, port uint16) (net.Conn, error) {
	c, err := vsock.DialContext(ctx, cid, uint32(port), nil)
	if err != nil {
		return nil, err
	}
	return g.vsockConn(c), nil
}

// A vsockListener accepts connections with stand-in addresses.
type vsockListener struct {
	*vsock.Listener
	gate *gater
}

func (l vsockListener) Addr() net.Addr { return l.gate.netAddr(l.Listener.Addr()) }

func (l vsockListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.gate.vsockConn(c), nil
}

// A vsockConn has stand-ins for addresses. It hides the socket, of which others would ask what TCP alone knows.
type vsockConn struct {
	net.Conn
	local, remote net.Addr
}

func (g *gater) vsockConn(c net.Conn) net.Conn {
	return vsockConn{c, g.netAddr(c.LocalAddr()), g.netAddr(c.RemoteAddr())}
}

func (c vsockConn) LocalAddr() net.Addr  { return c.local }
func (c vsockConn) RemoteAddr() net.Addr { return c.remote }

// netAddr returns the stand-in for a vsock address. Ports there have 32 bits; only those with a listener matter.
func (g *gater) netAddr(a net.Addr) net.Addr {
	v, ok := a.(*vsock.Addr)
	if !ok {
		return a
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(g.vsockAddr(v.ContextID), uint16(v.Port)))
}
