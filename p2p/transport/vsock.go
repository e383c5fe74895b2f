package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/mdlayher/vsock"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"narbor/p2p/netmon"
)

// A virtual machine and its host reach each other by vsock(7), without any network. Every machine there has a number,
// its context ID, which is [vsockHost] for the host; narbor listens at the number of its TCP port. There is no
// multiaddr for that, so libp2p is given IPv6 stand-ins, as for link-local addresses: with a tag of their own and the
// context ID. All that is counted by address is so counted by machine, too.

const (
	// VsockHost is the context ID of the machine that this one is a guest of.
	VsockHost = vsock.Host
	// vsockAny is VMADDR_CID_ANY: whatever number this machine has.
	vsockAny = 1<<32 - 1
	// vsockDevice is there once the kernel has vsock, which it loads when there is a hypervisor, or a guest.
	vsockDevice = "/sys/class/misc/vsock"
	// VsockPrefix begins the text of a vsock address, vsock:CID:PORT, as systemd writes it.
	VsockPrefix = "vsock:"
)

// HasVsock reports whether the kernel has vsock. It is not asked for a socket: that would have it loaded.
func HasVsock() bool {
	_, err := os.Stat(vsockDevice)
	return err == nil
}

// ForbidsVsock reports whether the kernel has vsock and this process may not use it: a systemd unit without AF_VSOCK
// among its RestrictAddressFamilies.
func ForbidsVsock() bool { return HasVsock() && isForbidden() }

// ParseVsock parses CID or CID:PORT; the port is 0 if there is none.
func ParseVsock(text string) (cid uint32, port uint16, err error) {
	id, portText, ok := strings.Cut(text, ":")
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil || n < VsockHost || n == vsockAny {
		return 0, 0, fmt.Errorf("%q is not the context ID of a machine: 2 is the host, guests have greater ones", id)
	}
	if !ok {
		return uint32(n), 0, nil
	}
	p, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || p == 0 {
		return 0, 0, fmt.Errorf("%q is not a port", portText)
	}
	return uint32(n), uint16(p), nil
}

// A carrier is libp2p's TCP, which dials whatever [Gater.DialContext] does, and which listens for vsock, too.
type carrier struct {
	*tcp.TcpTransport
	standIns *standIns
	up       transport.Upgrader
}

// Listen implements [transport.Transport].
func (c carrier) Listen(m ma.Multiaddr) (transport.Listener, error) {
	a, _ := netmon.IPOf(m)
	cid, ok := c.standIns.cidOf(a)
	port, pok := netmon.TCPPort(m)
	if !ok || !pok {
		return c.TcpTransport.Listen(m)
	}
	l, err := vsock.ListenContextID(cid, uint32(port), nil)
	if err != nil {
		return nil, err
	}
	wrapped, err := manet.WrapNetListener(vsockListener{l, c.standIns})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return c.up.UpgradeGatedMaListener(c, c.up.GateMaListener(wrapped)), nil
}

// dialVsock connects to a machine on the same hypervisor.
func (s *standIns) dialVsock(ctx context.Context, cid uint32, port uint16) (net.Conn, error) {
	c, err := vsock.DialContext(ctx, cid, uint32(port), nil)
	if err != nil {
		return nil, err
	}
	return s.vsockConn(c), nil
}

// A vsockListener accepts connections with stand-in addresses.
type vsockListener struct {
	*vsock.Listener
	standIns *standIns
}

func (l vsockListener) Addr() net.Addr { return l.standIns.netAddr(l.Listener.Addr()) }

func (l vsockListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.standIns.vsockConn(c), nil
}

// A vsockConn has stand-ins for addresses. It hides the socket, of which others would ask what TCP alone knows.
type vsockConn struct {
	net.Conn
	local, remote net.Addr
}

func (s *standIns) vsockConn(c net.Conn) net.Conn {
	return vsockConn{c, s.netAddr(c.LocalAddr()), s.netAddr(c.RemoteAddr())}
}

func (c vsockConn) LocalAddr() net.Addr  { return c.local }
func (c vsockConn) RemoteAddr() net.Addr { return c.remote }

// netAddr returns the stand-in for a vsock address. Ports there have 32 bits; only those with a listener matter.
func (s *standIns) netAddr(a net.Addr) net.Addr {
	v, ok := a.(*vsock.Addr)
	if !ok {
		return a
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.VsockAddr(v.ContextID), uint16(v.Port)))
}
