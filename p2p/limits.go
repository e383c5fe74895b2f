package p2p

import (
	"time"
)

// These limits bound the work that a peer, real or forged, can cause here: its size, count, rate or deadline. Each
// comment argues for the value. Other limits stand in fetch/fetchlimits.go (downloads), ask/limits.go (questions),
// peers/peerlimits.go (one peer), serve/servelimits.go (answers), meet/limits.go (peer exchange and dial-back), and
// peers/busywait.go and secrets/secrets.go (waits). The sizes of a NAR, of its blocks and of a claim follow from the
// signed claim, and from store.BlockSize and store.MaxInfoLen.

// Counts: of connections and of concurrent work.
const (
	// maxConns is far above the neighbours of any LAN that multicast still works on.
	maxConns = 512
	// maxLinkStreams bounds the streams between us and one peer, in each direction: a few long-lived ones do.
	// maxAllStreams bounds those that all peers together have opened.
	maxLinkStreams, maxAllStreams = 64, 8 * maxConns
	// maxInfos bounds the memory of claims of received NARs: some closures' worth.
	maxInfos = 16 << 10
	// maxFailed bounds the memory of NARs that could not be fetched for others.
	maxFailed = 1024
)

// The bounds for one peer are in peerlimits.go.
const (
	// maxJobs is the number of NARs fetched for others at once.
	maxJobs = 16
	// maxAskerAddrs bounds the addresses of which is counted what they have asked for: it is more than a LAN has.
	maxAskerAddrs = 4096
	// infoPatience is how long a neighbour may take to answer from its upstream: longer than most upstreams take; then
	// ours is asked.
	infoPatience = 2 * time.Second
)
