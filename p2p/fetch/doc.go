// Package fetch receives one NAR in a [Session]: from all neighbours that have it at once, from those that are
// receiving it too, from a proxy that downloads it, or from an upstream. A session first tries to rebuild the NAR from
// another version of its path on this machine.
//
// Three types decide and have no lock, goroutine or clock: picker chooses the next block for a peer, blame finds the
// peers that sent wrong blocks, and sources keeps the holders that can still be asked. The goroutines of a session
// share three types with a lock each: plan (the picker and the sources), content (the blocks that are here, which other
// peers may get) and proxies (the neighbours that were asked to download the NAR). [Session.Fetch] starts the
// goroutines, and returns once all have ended but a rebuild that hangs on its disk: workers, which request blocks from
// one peer each, and suppliers, which wait for a proxy or read from an upstream.
//
// A session knows the rest of the node only as [Swarm], which finds holders, and [Conduct], which records the behaviour
// of peers.
package fetch
