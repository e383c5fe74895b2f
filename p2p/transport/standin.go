package transport

import (
	"bytes"
	"crypto/rand"
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
// socket, where [Gater.DialContext] puts the real ones in their place.

// standIns are the addresses that libp2p is given for those that it refuses or does not know. They exist between a call
// to dial and the socket.
type standIns struct {
	tag  [4]byte // begins those of link-local addresses, which are never sent to a peer
	cids [8]byte // and those of vsock addresses, of which a connected guest receives its own
}

func newStandIns() *standIns {
	s := &standIns{tag: [4]byte{1}, cids: [8]byte{1}}
	rand.Read(s.tag[1:])
	for rand.Read(s.cids[1:]); [4]byte(s.cids[:4]) == s.tag; {
		rand.Read(s.cids[1:])
	}
	return s
}

// StandIn returns the stand-in for a link-local address with a zone.
func (s *standIns) StandIn(m ma.Multiaddr) (ma.Multiaddr, error) {
	a, ok := netmon.IPOf(m)
	b := a.As16()
	if !ok || !netmon.IsLinkLocal(a) || !bytes.Equal(b[2:8], make([]byte, 6)) {
		return nil, fmt.Errorf("%s is not a link-local address", m)
	}
	ifi, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	copy(b[:4], s.tag[:])
	binary.BigEndian.PutUint32(b[4:], uint32(ifi.Index))
	port, err := m.ValueForProtocol(ma.P_TCP)
	if err != nil {
		return nil, err
	}
	return ma.NewMultiaddr("/ip6/" + netip.AddrFrom16(b).String() + "/tcp/" + port)
}

// real returns the link-local address of a stand-in, and every other address as it is.
func (s *standIns) real(a netip.Addr) (netip.Addr, error) {
	b := a.As16()
	if !s.isStandIn(a) {
		return a, nil
	}
	if _, err := net.InterfaceByIndex(int(binary.BigEndian.Uint32(b[4:]))); err != nil {
		return a, err
	}
	return s.realOrIndex(a), nil
}

// Origin returns what an address stands for, and whether it is reached by vsock.
func (s *standIns) Origin(a netip.Addr) (real netip.Addr, guest bool) {
	if r, err := s.real(a); err == nil {
		a = r
	}
	return a, s.IsVsock(a)
}

// isStandIn reports whether an address stands for a link-local one.
func (s *standIns) isStandIn(a netip.Addr) bool {
	b := a.As16()
	return [4]byte(b[:4]) == s.tag
}

// realOrIndex returns what a stand-in stands for. The zone is the number of the interface if that is gone.
func (s *standIns) realOrIndex(a netip.Addr) netip.Addr {
	b := a.As16()
	index := int(binary.BigEndian.Uint32(b[4:]))
	zone := strconv.Itoa(index)
	if ifi, err := net.InterfaceByIndex(index); err == nil {
		zone = ifi.Name
	}
	copy(b[:8], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0})
	return netip.AddrFrom16(b).WithZone(zone)
}

// StandIns returns the stand-ins by which libp2p dials link-local addresses.
func (s *standIns) StandIns(addrs []ma.Multiaddr) (out []ma.Multiaddr, err error) {
	for _, m := range addrs {
		at, e := s.StandIn(m)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		out = append(out, at)
	}
	return out, err
}

// VsockAddr returns the stand-in for the machine with a context ID.
func (s *standIns) VsockAddr(cid uint32) netip.Addr {
	var b [16]byte
	copy(b[:], s.cids[:])
	binary.BigEndian.PutUint32(b[12:], cid)
	return netip.AddrFrom16(b)
}

// cidOf is VsockAddr's inverse.
func (s *standIns) cidOf(a netip.Addr) (cid uint32, ok bool) {
	b := a.As16()
	cid = binary.BigEndian.Uint32(b[12:])
	return cid, a == s.VsockAddr(cid)
}

// IsVsock reports whether an address is a stand-in for a machine that is reached by vsock.
func (s *standIns) IsVsock(a netip.Addr) bool {
	_, ok := s.cidOf(a)
	return ok
}
