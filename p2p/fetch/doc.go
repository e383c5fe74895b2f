// Package fetch receives one NAR in a [Session]: from all neighbours that have it at once, from those that are receiving it
// too, from a proxy that downloads it, or from an upstream.
//
// Which block is asked of which neighbour (picker), who sent wrong blocks (blame), and which sources are left (sources) are
// decided by types without lock, goroutine or clock. The session has the lock and the goroutines; [Session.Fetch] starts
// them, and has ended them when it returns. It knows the rest of the node only as [Swarm], which finds holders, and
// [Conduct], which records what they do. Blocks that are here can be read while others arrive, by [Session.ReadBlock].
package fetch
