package p2p

import "github.com/libp2p/go-libp2p/core/peer"

// CloseHost ends a node that was never run.
func CloseHost(n *Node) { n.lan.Host().Close() }

// Refuses says whether a node lets nobody of that ID in.
func Refuses(n *Node, id string) bool {
	p, err := peer.Decode(id)
	return err == nil && n.lan.gate.isBlocked(p)
}
