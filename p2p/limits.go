package p2p

import (
	"time"
)

// What bounds what a peer, real or forged, can make this machine do: its size, count, rate or deadline, with the argument
// for the value. Bounds of downloads are in fetch/fetchlimits.go, those of what one peer can do in peers/peerlimits.go,
// those of answers in serve/servelimits.go, those of peer exchange and dial-back in meet/limits.go, and those of waits in
// peers/busywait.go and secrets/secrets.go. The sizes of a NAR, of its blocks and of a claim follow from what an upstream
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
	// starvedAfter is how late a timer may be before this machine counts as busy itself: the answer may be here, unread.
	starvedAfter = 50 * time.Millisecond
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
