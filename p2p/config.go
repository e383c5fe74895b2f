package p2p

import (
	"narbor/p2p/discovery"
	"narbor/p2p/proxy"
	"narbor/p2p/serve"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/rebase"
	"narbor/store/spool"
	"narbor/trust"
)

// Config has the identity of this node, the sources that it shares, and the keys that it trusts.
type Config struct {
	Host      transport.Config // Identity is required; New sets the limits and the UserAgent
	Discovery discovery.Config
	Upstreams UpstreamConfig
	Sharing   SharingConfig

	Version string // told to neighbours
	Name    string // as well, if it is not ""; see [peers.CheckName]
	// GroupSecret, of at least 16 bytes: peers that do not know it neither ask nor are asked; nil is no group.
	GroupSecret []byte
	Trusted     *trust.Keys       // verify claims
	Spool       *spool.Spool      // where fetched NARs go
	Fetches     *spool.Fetches    // into the spool, shared with those for Nix; nil: the node's own
	Rebuilds    *rebase.Rebuilder // makes NARs out of other versions of their paths; nil fetches all
	Denied      string            // file that keeps the peers across restarts that are banned, or refused by [Node.Block]; "" is none
	Observer    Observer          // is told of each block that passes; nil is none
}

// UpstreamConfig has the upstreams, and whether they are asked for neighbours.
type UpstreamConfig = proxy.Upstreams

// SharingConfig says which paths neighbours may get from this node.
type SharingConfig = serve.Sharing

// An Observer is called for each block of a NAR that is sent or received. Peer IDs are passed as text. Its methods are
// called concurrently and must return at once, because transfers wait for them.
type Observer interface {
	// Received is told of n bytes that the mapping's NAR may consist of: it is not verified yet.
	Received(o store.Origin, m trust.Mapping, from string, n int)
	// Sent is told of n bytes of a path's NAR of that size.
	Sent(path store.Path, size int64, to string, n int)
	// Landed is called when a NAR that was fetched only for neighbours is in the spool, or with the error of its fetch.
	Landed(m trust.Mapping, err error)
}

// noObserver does nothing.
type noObserver struct{}

func (noObserver) Received(store.Origin, trust.Mapping, string, int) {}
func (noObserver) Sent(store.Path, int64, string, int)               {}
func (noObserver) Landed(trust.Mapping, error)                       {}

// host returns the configuration of the libp2p host.
func (cfg Config) host() transport.Config {
	h := cfg.Host
	h.UserAgent, h.Conns, h.Streams, h.PeerStreams = "narbor/"+cfg.Version, maxConns, maxAllStreams, maxLinkStreams
	return h
}
