package meet

import "time"

// Bounds of the work that a neighbour can cause.
const (
	// maxToldPeers is the number of peers in an answer about neighbours, each with one address of at most maxPeerAddr
	// bytes: to find more, the asker asks those peers.
	maxToldPeers, maxPeerAddr = 16, 128
	// maxDialBacks is the number of neighbours of a link that are asked to connect to this machine: if one lies, or its
	// own firewall is in the way, another contradicts it.
	maxDialBacks = 3
	// maxDialBackAddrs bounds the addresses of which is counted how often they were connected to: it is more than a LAN
	// has.
	maxDialBackAddrs = 4096
	// dialBackAddrRate, a second, and dialBackAddrBurst bound how often a neighbour at one address has us connect to
	// it: a machine with a firewall that is being set up tries some times in a row. dialBackRate and dialBackBurst
	// bound it for all addresses together, which cost nothing in an IPv6 /64: some 20 connections are under way at
	// most.
	dialBackAddrRate, dialBackAddrBurst = 0.2, 4
	dialBackRate, dialBackBurst         = 2, 16
	// peersTimeout bounds a peer exchange, in either direction.
	peersTimeout = 5 * time.Second
	// dialBackTimeout bounds a connection that a neighbour has asked for: a second attempt of TCP comes after 1 s.
	// dialBackWait bounds the answer, and arrivalGrace how long accepting such a connection may take afterwards.
	dialBackTimeout, dialBackWait, arrivalGrace = 2 * time.Second, 5 * time.Second, time.Second
)
