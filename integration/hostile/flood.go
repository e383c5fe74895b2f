package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// flood announces, by multicast, peers that do not exist, at addresses that narbor must not dial.
func flood(ctx context.Context, m *machine, f fault) error {
	count := m.count
	if count == 0 {
		count = 10_000
	}
	addrs := floodAddrs()
	return m.multicast(ctx, f, count, func(i int) ([]string, error) {
		id, err := inventedPeer()
		var texts []string
		for k := range 8 {
			texts = append(texts, fmt.Sprintf("%s%s/p2p/%s", addrPrefix, addrs[(i+k*7)%len(addrs)], id))
		}
		return texts, err
	})
}

// fatFlood sends announcements of 65,000 empty strings.
func fatFlood(ctx context.Context, m *machine, f fault) error {
	count := m.count
	if count == 0 {
		count = 1000
	}
	return m.multicast(ctx, f, count, func(int) ([]string, error) { return make([]string, 65_000), nil })
}

// multicast sends count announcements, each under a new name, with the strings that texts returns.
func (m *machine) multicast(ctx context.Context, f fault, count int, texts func(i int) ([]string, error)) error {
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
	if err != nil {
		return err
	}
	defer conn.Close()
	if !sleep(ctx, time.Second) { // until the other machines listen
		return nil
	}
	for i := range count {
		said, err := texts(i)
		if err != nil {
			return err
		}
		conn.Write(announcementPacket(rand.Text(), said)) // a full buffer loses one, as a network would
		if i%1000 == 999 {
			m.offence(f, "%d announcements", i+1)
		}
		if !sleep(ctx, m.over/time.Duration(count)) {
			return nil
		}
	}
	m.offence(f, "%d announcements, and no more", count)
	return nil
}

func inventedPeer() (peer.ID, error) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	key, err := crypto.UnmarshalEd25519PublicKey(public)
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(key)
}

// floodAddrs returns addresses that narbor must not dial, and some on-link addresses that no machine has.
func floodAddrs() []string {
	out := []string{
		"/ip4/8.8.8.8/tcp/6273", "/ip4/198.51.100.7/tcp/443", "/ip4/10.99.0.1/tcp/6273", "/ip4/192.168.77.1/tcp/80",
		"/ip4/127.0.0.1/tcp/6272", "/ip4/127.0.0.53/tcp/53", "/ip6/::1/tcp/6272", "/ip4/0.0.0.0/tcp/6273", "/ip6/::/tcp/6273",
		"/ip4/169.254.169.254/tcp/80", "/ip6/fd00:ec2::254/tcp/80", "/ip4/224.0.0.251/tcp/5353", "/ip4/255.255.255.255/tcp/6273",
		"/ip6/2001:db8::1/tcp/6273", "/ip6/::ffff:8.8.8.8/tcp/6273", "/ip6/64:ff9b::808:808/tcp/6273",
		"/dns4/example.org/tcp/6273", "/dns4/localhost/tcp/6272", "/ip4/8.8.8.8/udp/6273/quic-v1",
	}
	for _, own := range ownAddrs() {
		net24 := own[:strings.LastIndexByte(own, '.')]
		// The probable address of the gateway, with its services.
		out = append(out, "/ip4/"+net24+".254/tcp/80", "/ip4/"+net24+".254/tcp/22", "/ip4/"+net24+".254/tcp/443")
		for i := range 8 {
			out = append(out, fmt.Sprintf("/ip4/%s.%d/tcp/6273", net24, 200+i))
		}
	}
	return out
}

// announcementPacket returns a DNS response (RFC 6762) with the records that a DNS-SD browser needs.
func announcementPacket(instance string, texts []string) []byte {
	const typeA, typePTR, typeTXT, typeSRV = 1, 12, 16, 33
	full := instance + "." + service + ".local"
	var txt []byte
	for _, t := range texts {
		txt = append(append(txt, byte(len(t))), t...)
	}
	target := instance + ".local"
	b := []byte{0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0} // an authoritative response with four answers
	b = appendRecord(b, service+".local", typePTR, dnsName(full))
	b = appendRecord(b, full, typeSRV, append([]byte{0, 0, 0, 0, 0x18, 0x81}, dnsName(target)...))
	b = appendRecord(b, full, typeTXT, txt)
	return appendRecord(b, target, typeA, []byte{192, 0, 2, 1})
}

func appendRecord(b []byte, name string, kind uint16, data []byte) []byte {
	const class, ttl = 1, 600
	b = append(b, dnsName(name)...)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

func dnsName(name string) (b []byte) {
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}
