package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

// An IPv6 link-local address is valid on one link only, which is its zone: the name of an interface of this machine.
// Zones are never on the wire. A machine announces its link-local address without one, and the receiver adds the link
// on which the announcement came. An announcement of a link-local address is believed only if it came from that very
// address: a reflector between two networks, or a machine that answers a question on one link with its address on
// another, would have us look for it where it is not.

// libp2p refuses to dial link-local addresses, so it is given stand-ins: addresses of a range in which there are no
// machines, with the number of the interface and a secret tag in them. These exist between a call to dial and the
// socket, where [gater.DialContext] puts the real ones in their place.

// standIn returns what stands for a link-local address with a zone.
func (g *Gater) StandIn(m ma.Multiaddr) (ma.Multiaddr, error) {
	a, ok := netmon.IPOf(m)
	b := a.As16()
	if !ok || !netmon.IsLinkLocal(a) || !bytes.Equal(b[2:8], make([]byte, 6)) {
		return nil, fmt.Errorf("%s is not a link-local address", m)
	}
	ifi, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	copy(b[:4], g.tag[:])
	binary.BigEndian.PutUint32(b[4:], uint32(ifi.Index))
	port, err := m.ValueForProtocol(ma.P_TCP)
	if err != nil {
		return nil, err
	}
	return ma.NewMultiaddr("/ip6/" + netip.AddrFrom16(b).String() + "/tcp/" + port)
}

// real returns what a stand-in for a link-local address stands for, and every other address as it is.
func (g *Gater) real(a netip.Addr) (netip.Addr, error) {
	b := a.As16()
	if !g.isStandIn(a) {
		return a, nil
	}
	if _, err := net.InterfaceByIndex(int(binary.BigEndian.Uint32(b[4:]))); err != nil {
		return a, err
	}
	return g.realOrIndex(a), nil
}

// origin implements [origin].
func (g *Gater) Origin(a netip.Addr) (real netip.Addr, guest bool) {
	if r, err := g.real(a); err == nil {
		a = r
	}
	return a, g.IsVsock(a)
}

// isStandIn reports whether an address stands for a link-local one.
func (g *Gater) isStandIn(a netip.Addr) bool {
	b := a.As16()
	return [4]byte(b[:4]) == g.tag
}

// realOrIndex returns what a stand-in stands for. The zone is the number of the interface if that is gone.
func (g *Gater) realOrIndex(a netip.Addr) netip.Addr {
	b := a.As16()
	index := int(binary.BigEndian.Uint32(b[4:]))
	zone := strconv.Itoa(index)
	if ifi, err := net.InterfaceByIndex(index); err == nil {
		zone = ifi.Name
	}
	copy(b[:8], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0})
	return netip.AddrFrom16(b).WithZone(zone)
}

// DialContext implements the dialer that libp2p's TCP transport uses.
func (g *Gater) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if cid, ok := g.cidOf(ap.Addr()); ok {
		return g.dialVsock(ctx, cid, ap.Port())
	}
	a, err := g.real(ap.Addr())
	if err != nil {
		return nil, err
	}
	return g.paces.DialContext(ctx, network, netip.AddrPortFrom(a, ap.Port()).String())
}

// standIns returns what libp2p is given to dial link-local addresses.
func (g *Gater) StandIns(addrs []ma.Multiaddr) (out []ma.Multiaddr, err error) {
	for _, m := range addrs {
		s, e := g.StandIn(m)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		out = append(out, s)
	}
	return out, err
}
