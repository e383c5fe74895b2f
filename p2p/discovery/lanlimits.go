package discovery

import "time"

// Counts: of machines, their addresses and connections.
const (
	// maxNamedAddrs bounds the addresses that one DNS name may stand for.
	maxNamedAddrs = 8
	// maxDials is how many machines are dialled at a time.
	maxDials = 8
	// maxKept is the number of neighbours that a machine looks for among those that announce themselves: with fewer
	// machines, all are connected to each other. Each neighbour costs memory, some 200 KiB, and is asked for every
	// path.
	maxKept = 64
	// maxVisits is the number of non-neighbours dialled at a time to be asked for what no neighbour has, and
	// maxRetained the number that stay connected because they had something: the holders of some closures.
	maxVisits, maxRetained = 8, 16
	// maxKnown bounds the machines that are remembered because they announced themselves. Announcing costs nothing, so
	// when it is full the machine with the most failed dials makes room.
	maxKnown = 512
	// maxNetworks, maxRemembered and maxRememberedAddrs bound the networks that are remembered, the addresses in each,
	// and those of one peer there; maxNetworkKey is the longest name of a network, in bytes. A few are enough to find
	// all others.
	maxNetworks, maxRemembered, maxRememberedAddrs, maxNetworkKey = 32, 32, 2, 160
	// maxSearched bounds the search domains that are asked for peers, as resolvers did for long, and maxFound the peers
	// named there.
	maxSearched, maxFound = 6, 16
	// maxAdded bounds the peers that are added while narbor runs, and maxPeerText the bytes of one: a multiaddr with
	// the longest DNS name and an ID.
	maxAdded, maxPeerText = 64, 512
)

// Rates.
const (
	// dialRate, a second, and dialBudget bound how often a flood of announcements can make us dial at all: a whole LAN
	// at once, then slowly.
	dialRate, dialBudget = 8, 48
	// visitRate, a second, and visitBurst bound how many non-neighbours are visited: on a LAN of 500 all within 15 s,
	// for a tenth of a processor meanwhile.
	visitRate, visitBurst = 32, 64
)

// Deadlines: of connections and of discovery.
const (
	// probeTimeout is how long a neighbour may take to show that it is still there, after this machine slept or its
	// cable was out: with looking at the interfaces before and dialling after, less than 5 s.
	probeTimeout = 2500 * time.Millisecond
	// The pause before a neighbour is dialled again begins at redialMin and doubles up to redialMax.
	redialMin, redialMax = 500 * time.Millisecond, 30 * time.Second
	// memoryLimit is how long a network is remembered. By then addresses have been given to others.
	memoryLimit = 30 * 24 * time.Hour
	// missFor is how long a neighbour that has gone is dialled: it may have restarted, and where multicast does not
	// work no other source will announce it.
	missFor = 10 * time.Minute
	// WantedFor is how long non-neighbours are asked for a missed path: Nix goes on down a closure meanwhile. revisit
	// is how long a non-neighbour is not visited again, and VisitTime the longest time of a visit.
	WantedFor, revisit, VisitTime = time.Minute, 2 * time.Minute, 2 * time.Second
	// resolveTimeout is longer than a resolver waits before it asks its second server.
	resolveTimeout = 6 * time.Second
	// srvDelay is the time between a change of network and a question to its name servers: DHCP clients write addresses
	// first.
	srvDelay = 3 * time.Second
	// settleLimit bounds how long discovery may take before it counts as settled whatever happened; requests of
	// Nix wait for that.
	settleLimit = 2 * time.Second
	// placeFirst is how long Nix waits at most until the network and its remembered peers are known.
	placeFirst = 500 * time.Millisecond
	// hearsayFor is how long a machine known by hearsay is dialled, as long as it does not answer.
	hearsayFor = 5 * time.Minute
)
