package p2p

// These limits bound the work that a peer, real or forged, can cause here: its size, count, rate or deadline. Each
// comment argues for the value. Other limits stand in fetch/fetchlimits.go (downloads), ask/limits.go (questions),
// peers/peerlimits.go (one peer), serve/servelimits.go (answers), proxy/limits.go (downloads for neighbours),
// receive/fetched.go (claims of received NARs), meet/limits.go (peer exchange and dial-back), and peers/busywait.go and
// secrets/secrets.go (waits). The sizes of a NAR, of its blocks and of a claim follow from the signed claim, and from
// store.BlockSize and store.MaxInfoLen.

// Counts of connections.
const (
	// maxConns is far above the neighbours of any LAN that multicast still works on.
	maxConns = 512
	// maxLinkStreams bounds the streams between us and one peer, in each direction: a few long-lived ones do.
	// maxAllStreams bounds those that all peers together have opened.
	maxLinkStreams, maxAllStreams = 64, 8 * maxConns
)
