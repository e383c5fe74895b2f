package p2p

import (
	"narbor/p2p/discovery"
)

// AddPeer looks for a peer from now on, and after each restart. text is a multiaddr, an IP address or a DNS name, with
// or without port. Adding it again does nothing. It is not added, with an error, if text is none of these, if there are
// too many, or if it cannot be saved.
func (n *Node) AddPeer(text string) error { return n.lan.AddPeer(text) }

// RemovePeer ends what AddPeer began, and closes the connections to the peers found there. A peer that is found in
// another way as well comes back. It returns an error if no such peer was added.
func (n *Node) RemovePeer(text string) error { return n.lan.RemovePeer(text) }

// Peers returns the peers that the user named, in the order in which they were given.
func (n *Node) Peers() []discovery.NamedPeer { return n.lan.NamedPeers() }
