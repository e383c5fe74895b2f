package p2p

import (
	"context"
	"time"

	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/store"
)

// AddPeer looks for a peer from now on, and after each restart: a multiaddr, IP address or DNS name, with or without
// port. Adding it again does nothing. It returns an error if text is none of these, if there are too many, or if it
// cannot be kept; then it is not added.
func (n *Node) AddPeer(text string) error { return n.lan.AddPeer(text) }

// RemovePeer ends what AddPeer began, and closes the connections to the peers found there. A peer that is found in
// another way as well comes back. It returns an error if no such peer was added.
func (n *Node) RemovePeer(text string) error { return n.lan.RemovePeer(text) }

// Peers returns the peers that the user named, in the order in which they were given.
func (n *Node) Peers() []discovery.NamedPeer { return n.lan.NamedPeers() }

// tryOut asks a stranger for what was missed lately, and ends the visit.
func (n *Node) tryOut(ctx context.Context, nb *peers.Neighbour) {
	var asked []*lookup
	for _, hp := range n.wanted.Keys() {
		if at, ok := n.wanted.Peek(hp); ok && time.Since(at) < discovery.WantedFor && n.secrets.check(ctx, hp) == nil {
			l := newLookup(n.lookups, hp, nil, 1)
			l.brief = true
			l.ask([]*peers.Neighbour{nb})
			asked = append(asked, l)
		}
	}
	useful := false
	for _, l := range asked {
		if _, err := l.wait(ctx); err == nil {
			useful = true
			n.wanted.Remove(l.hp)
		}
	}
	n.lan.Dialer.EndVisit(nb.ID, useful)
}

// missed has strangers asked for a path that no neighbour has. The caller does not wait for that.
func (n *Node) missed(hp store.HashPart) {
	if n.lan.Dialer.Miss() {
		n.wanted.Add(hp, time.Now())
	}
}

// host returns the configuration of the libp2p host.
func (cfg Config) host() transport.Config {
	return transport.Config{Identity: cfg.Identity, Port: cfg.Port, UserAgent: "narbor/" + cfg.Version, Log: cfg.Log,
		Libp2pLog: cfg.Libp2pLog, Conns: maxConns, Streams: maxAllStreams, PeerStreams: maxLinkStreams}
}
