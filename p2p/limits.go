package p2p

import (
	"time"
)

// What bounds what a peer, real or forged, can make this machine do: its size, count, rate or deadline, with the argument
// for the value. Bounds of downloads are in fetch/fetchlimits.go, those of what one peer can do in peers/peerlimits.go, and
// those of answers in serve/servelimits.go. The sizes of a NAR, of its blocks and of a claim follow from what an upstream
// has signed, and from store.BlockSize and store.MaxInfoLen.

// Counts: of connections and of concurrent work.
const (
	// maxConns is far above the neighbours of any LAN that multicast still works on.
	maxConns = 512
	// maxLinkStreams bounds the streams between us and one peer, in each direction: a few long-lived ones do. maxAllStreams
	// bounds those that all peers together have opened.
	maxLinkStreams, maxAllStreams = 64, 8 * maxConns
	// maxLost is the number of streams to a neighbour that may end without an answer to a question before it counts as
	// not answered. One ends when the neighbour has closed it meanwhile; a neighbour that ends every stream is asked no
	// more often.
	maxLost = 2
	// maxFailed bounds the memory of NARs that could not be fetched for others.
	maxFailed = 1024
	// maxWanted is how many paths a stranger is asked for: those that Nix missed last, and less than askQueue.
	maxWanted = 512
)

// Counts: of remembered items.
const (
	// maxFindings bounds the memory of which peer has which path: some closures' worth.
	maxFindings = 16 << 10
)

// Deadlines: for peers that we ask.
const (
	// infoTimeout bounds the time that one unresponsive neighbour can add to a question of Nix's about a path. Neighbours
	// share our network: a neighbour that needs longer is worse than the internet. It leaves a part of narserve's 300 ms
	// to the machine's own store. If that store hangs, it is also the time for which each question waits for it, once the
	// budget of longer waits is spent.
	infoTimeout = 250 * time.Millisecond
	// busyTimeout is how long a question about a path waits for a neighbour that is alive and busy, and how long a NAR waits
	// for the first neighbour that says it has it: Nix remembers a 404 for an hour, and waits for a NAR for minutes. It
	// also bounds the wait for this machine's own store, after which neighbours are not asked. [Node.Patience] is the sum of
	// busyTimeout and infoTimeout.
	busyTimeout = time.Second
	// maxBusyWait bounds what a build of thousands of paths that no neighbour has loses in all by waiting for busy ones; what
	// was lost is forgotten at one part in busyWaitRefill.
	maxBusyWait, busyWaitRefill = 2 * time.Second, 30
	// starvedAfter is how late a timer may be before this machine counts as busy itself: the answer may be here, unread.
	starvedAfter = 50 * time.Millisecond
	// maxOwnAsked bounds the questions to this machine's own sources before neighbours are asked, and so the goroutines of
	// those that a hung file server never answers. Sources that are well answer within a millisecond.
	maxOwnAsked = 64
	// refreshTimeout bounds the delay that repeating the question adds to a NAR of which a holder is known.
	refreshTimeout = 20 * time.Millisecond
)

// Bounds whose counterparts for one peer are in peerlimits.go.
const (
	// maxJobs is the number of NARs fetched for others at once.
	maxJobs = 16
	// maxAskerAddrs bounds the addresses of which is counted what they have asked for: it is more than a LAN has.
	maxAskerAddrs = 4096
	// infoPatience is how long a neighbour may take to answer from its upstream: longer than most upstreams take; then
	// ours is asked.
	infoPatience = 2 * time.Second
)
