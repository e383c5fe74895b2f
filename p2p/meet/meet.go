// Package meet has neighbours tell each other of their neighbours, and connect to each other on request. It knows the
// neighbours and the ledger, and nothing of paths. [Exchange.Run] is the only goroutine that outlasts a call; package
// p2p starts it, and hands over the streams of both protocols.
//
// # Peer exchange
//
// Where multicast does not work, neighbours tell each other of their neighbours, on the protocol "/narbor/peers/1". The
// side that opens a stream closes its half without sending anything; the other side answers, and closes it:
//
//	uvarint  length of the answerer's name, at most [peers.MaxName]; 0 is none, as it is unless the user gives one
//	...      the name; one that [peers.CheckName] refuses is no violation, and counts as none
//	uvarint  number of addresses, at most [maxToldPeers]
//
// and as often
//
//	uvarint  length, at most [maxPeerAddr]
//	...      multiaddr in its binary form: /ip4 or /ip6, /tcp, /p2p
//
// The answer lists, in any order and with one address each, peers to which the answerer is connected, on the link that
// the asker is on, at an address that the answerer has seen itself: it has connected to that address, or the peer has
// come from there and says that it listens at that port. So an address goes only from one neighbour to the next, and
// never to another network. In a group, only members answer, and they list only members. Answers are optional; a peer
// that asks too often has its streams reset. An address is hearsay: it is dialled if it is on-link and its port is at
// least [netmon.MinPort].
//
// # Dial-back
//
// A machine finds out whether a firewall keeps connections from it on the protocol "/narbor/dialback/1": a neighbour
// connects to it on request. The asker sends its request and closes its side of the stream:
//
//	uvarint  TCP port that the asker listens at, from [netmon.MinPort] to 65535
//
// The other side opens a TCP connection to that port, at the address from which the stream's own connection comes and
// no other, from its own address of that connection and a port that its kernel chooses. It sends nothing on it, closes
// it, and answers:
//
//	1 byte   0 declined, 1 reached, 2 refused, 3 timed out after [dialBackTimeout], 4 asked too often
//
// An address that is on none of the answerer's links, such as one that the user has named, is declined. In a group only
// members ask, and only members answer. The asker believes "reached" only if it has accepted a connection from the
// answerer's address meanwhile. That connection does not make the two neighbours, because no handshake follows.
package meet

import (
	"narbor/p2p/discovery"
	"narbor/p2p/peers"
)

// Config is what peer exchange and dial-back need. All fields are required but Group, Simulated and Name.
type Config struct {
	LAN        *discovery.LAN
	Neighbours *peers.Set
	Ledger     *peers.Ledger
	Group      *peers.Group // outsiders get no answer; nil is no group
	Arrivals   *Arrivals    // of connections that this machine has asked for
	Simulated  bool         // the network is simulated, in tests: this machine connects to no address
	Name       string       // of this machine, told to neighbours; "" tells none
}
