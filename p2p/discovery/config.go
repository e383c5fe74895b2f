package discovery

import (
	"errors"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

// Config has the identity of this node on the LAN and the peers to look for.
type Config struct {
	Host                            transport.Config   // of the libp2p host; a nil Log discards
	Peers, KernelPeers              []string           // multiaddr, IP address or DNS name, with or without a port
	PeersFile                       string             // keeps the added peers; "" is none
	MemoryFile                      string             // keeps the peers of each network; "" is none
	MDNS                            bool               // announce and browse
	Vsock                           bool               // reach host and guests by vsock, if there is one
	AllowInterfaces, DenyInterfaces []string           // patterns of path.Match
	Net                             *Net               // instead of this machine's
	Denies                          func(peer.ID) bool // peers with which there are no connections; nil is none
	Arrived                         func(netip.Addr)   // is told of connections that are let in; nil is not
	LinksLooked                     func()             // the links were looked at, and one may have become metered; nil is not
}

// Check reports what can be seen to be wrong with the peers and the patterns of interfaces before anything starts. It looks
// up no name and no interface.
func (cfg Config) Check() error {
	_, err := parseNamed(cfg.Peers, fromFlag)
	_, perr := netmon.NewPolicy(cfg.AllowInterfaces, cfg.DenyInterfaces)
	return errors.Join(err, perr)
}
