// Package receive has the NARs that this machine receives, each in one session of [narbor/p2p/fetch] at a time, and lets
// neighbours get them while they arrive, and from the spool until Nix has taken them. [Fetched] is what there is,
// [Downloads] receives more. Nothing here outlasts its call.
package receive
