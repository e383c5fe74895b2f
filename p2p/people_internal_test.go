package p2p

import "github.com/libp2p/go-libp2p/core/peer"

// CloseHost ends a node that was never run.
func CloseHost(n *Node) { n.lan.Host().Close() }

// AtMost and Eventually are for the tests outside of the package.
var (
	AtMost     = atMost
	Eventually = eventually
)

// Refuses reports whether a node refuses peers with that ID.
func Refuses(n *Node, id string) bool {
	p, err := peer.Decode(id)
	return err == nil && !n.lan.Gate.InterceptPeerDial(p)
}
