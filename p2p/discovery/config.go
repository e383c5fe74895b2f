package discovery

import (
	"errors"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/netmon"
)

// Config says which peers to look for, and how.
type Config struct {
	Peers       []string // named by the user: multiaddr, IP address or DNS name, with or without a port
	KernelPeers []string // as Peers, from the kernel's command line; invalid ones are logged and left out
	PeersFile   string   // keeps the peers that are added across restarts; "" is none
	MemoryFile  string   // keeps the peers of each network, to be looked for there again; "" is none
	DNSSD       bool     // name peers after SRV records in the search domains of the resolver
	MDNS        bool     // announce this machine and browse by multicast DNS
	Vsock       bool     // reach the host that this machine is a guest of, and be reached by guests, by vsock, where there is one
	// AllowInterfaces and DenyInterfaces are patterns of path.Match; none allowed is the default policy.
	AllowInterfaces, DenyInterfaces []string
	Net                             *Net // in place of this machine's network; nil in all but tests
}

// Hooks are called by a LAN. Each may be nil.
type Hooks struct {
	Denies      func(peer.ID) bool // peers with which there are no connections
	Arrived     func(netip.Addr)   // called for each accepted connection
	LinksLooked func()             // the links were looked at, and one may have become metered
}

// Check returns an error if a peer or a pattern of interfaces is malformed. It looks up no name and no interface.
func (cfg Config) Check() error {
	_, err := parseNamed(cfg.Peers, fromFlag)
	_, perr := netmon.NewPolicy(cfg.AllowInterfaces, cfg.DenyInterfaces)
	return errors.Join(err, perr)
}
