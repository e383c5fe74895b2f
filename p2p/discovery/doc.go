// Package discovery finds the machines around this one that run narbor, and stays connected to them.
//
// A [LAN] takes word of machines from multicast DNS, from the user, from neighbours, from the networks that it remembers,
// and from gateways and hypervisors that may be machines with narbor. Its [Dialer] has one budget of dials for all of them
// but the named peers, and decides which machines are neighbours if there are more than it keeps. Connections that no
// longer work are closed, so that their peers are dialled again. Whether a peer is of any use is decided elsewhere.
//
// [New] starts the libp2p host, which listens and accepts; [LAN.Run] starts everything else, and returns when all of it
// has ended. The methods of both may be called concurrently, before and after Run.
package discovery
