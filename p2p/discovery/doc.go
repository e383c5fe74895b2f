// Package discovery finds the machines around this one that run narbor, and stays connected to them.
//
// A [LAN] learns of machines from multicast DNS, from the user, from neighbours, and from its memory of known networks;
// it also tries gateways and hypervisors. Its [Dialer] has one budget of dials for all of them except the named peers,
// and decides which machines are neighbours if there are more than it keeps. Connections that no longer work are
// closed, so that their peers are dialled again. Whether a peer is useful is decided elsewhere.
//
// [New] starts the libp2p host, which listens and accepts; [LAN.Run] starts everything else, and returns when all of it
// has ended. The methods of both may be called concurrently, before and after Run.
package discovery
