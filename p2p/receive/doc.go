// Package receive has the NARs that this machine receives, each in one session of [narbor/p2p/fetch] at a time. It lets
// neighbours get them while they arrive, and from the spool until Nix has taken them. [Fetched] has those that are in
// the spool, and [Downloads] those that arrive. Nothing here outlasts its call.
package receive
