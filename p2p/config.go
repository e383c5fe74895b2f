package p2p

import (
	"log/slog"

	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/zap"

	"narbor/p2p/discovery"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/upstream"
	"narbor/trust"
)

// Config has the identity of this node, the sources that it shares, and the keys that it trusts.
type Config struct {
	Identity crypto.PrivKey // required
	Port     uint16         // TCP, all addresses; 0 picks one
	Peers    []string       // named by the user: multiaddr, IP or DNS name, with or without port
	// KernelPeers are as Peers, from the kernel's command line; invalid ones are logged and left out.
	KernelPeers []string
	MemoryFile  string // keeps the peers of each network, to be looked for there again; "" is none
	PeersFile   string // keeps the peers added by [Node.AddPeer] across restarts; "" is none
	MDNS        bool   // find neighbours by multicast DNS
	Vsock       bool   // reach the host that this machine is a guest of, and be reached by guests, by vsock, where there is one
	// AllowInterfaces and DenyInterfaces are patterns of interface names; none allowed is the default policy.
	AllowInterfaces, DenyInterfaces []string
	Version                         string         // told to neighbours
	Net                             *discovery.Net // in place of this machine's network; nil in all but tests

	// Upstreams are the caches on the internet that are asked, in order, for what no neighbour has; none asks nothing.
	// The caller of New closes them, after Run.
	Upstreams []*upstream.Cache
	// NoCooperate asks the upstreams for this machine alone, and no neighbour to ask its own. UpstreamBudget is how many
	// bytes of NARs a day are fetched for neighbours, for one address half of what others leave; 0 is [DefaultBudget].
	NoCooperate    bool
	UpstreamBudget int64
	// PowerSupplies is [PowerSupplies], by which a machine that runs on battery is known; "" takes it for one on mains.
	PowerSupplies string

	Share []store.Source // asked in order for what neighbours want, and then the spool; none shares nothing
	// GroupSecret, of at least 16 bytes: peers that do not know it neither ask nor are asked; nil is no group.
	GroupSecret []byte
	ShareOff    bool         // share nothing until [Node.Share] turns it on
	UploadRate  int64        // bytes of blocks, as they go over the wire, that are sent in a second; 0 is no limit
	Trusted     *trust.Keys  // verify claims
	ShareKeys   *trust.Keys  // a path is shared only if one of these has signed it
	Spool       *spool.Spool // where fetched NARs go
	Denied      string       // file that keeps the peers across restarts that are banned, or refused by [Node.Block]; "" is none
	Manifests   string       // directory that keeps manifests across restarts; "" is none
	Observer    Observer     // is told of each block that passes; nil is none
	Log         *zap.Logger  // nil discards
	Libp2pLog   slog.Handler // for libp2p's own messages, of the whole process; nil discards
}

// An Observer is called for each block of a NAR that passes between this node and its neighbours; it gets their IDs as
// text. It is called from many goroutines at once, while transfers wait: it must return at once.
type Observer interface {
	// Received is told of n bytes that the mapping's NAR may consist of: it is not verified yet.
	Received(o store.Origin, m trust.Mapping, from string, n int)
	// Sent is told of n bytes of a path's NAR of that size.
	Sent(path store.Path, size int64, to string, n int)
	// Landed is told that a NAR is in the spool that was fetched for neighbours alone, or with an error that it is not.
	Landed(m trust.Mapping, err error)
}

// nobody is the Observer that does nothing.
type nobody struct{}

func (nobody) Received(store.Origin, trust.Mapping, string, int) {}
func (nobody) Sent(store.Path, int64, string, int)               {}
func (nobody) Landed(trust.Mapping, error)                       {}

// host returns the configuration of the libp2p host.
func (cfg Config) host() transport.Config {
	return transport.Config{Identity: cfg.Identity, Port: cfg.Port, UserAgent: "narbor/" + cfg.Version, Log: cfg.Log,
		Libp2pLog: cfg.Libp2pLog, Conns: maxConns, Streams: maxAllStreams, PeerStreams: maxLinkStreams}
}

// Check reports what can be seen to be wrong with the peers and the patterns of interfaces before anything starts. It looks
// up no name and no interface.
func (c Config) Check() error {
	return discovery.Config{Peers: c.Peers, AllowInterfaces: c.AllowInterfaces, DenyInterfaces: c.DenyInterfaces}.Check()
}
