// Package serve answers the requests of neighbours: which of the paths that they ask for are here, and the blocks and
// manifests of their NARs. It tells only of paths that [trust.Policy] lets leave this machine: those that an upstream
// has signed, and if the user allows it a circle's own builds and fetched sources. Each peer, each machine and all
// machines together have a quota of questions about paths that are not here, so that a dictionary of paths yields
// little. Peers take turns, by address and then by peer, so that none gets more by asking on many streams.
//
// It asks no peer. NARs that are being received, and upstreams that are asked for neighbours, are behind the interfaces
// [Arriving] and [Proxy]. [Server.Serve] is called for each stream, by many goroutines at once; it returns at the end
// of its stream or context. [Server.Run] closes archives that have not been read for a while, and the caller calls
// [Server.Close] once all others have returned.
package serve
