package proxy

import "time"

// DefaultBudget is how many bytes of NARs a day are fetched for neighbours: a dozen systems.
const DefaultBudget = 50 << 30

const (
	// maxFailed bounds the memory of NARs that could not be fetched for others.
	maxFailed = 1024
	// maxDownloads is the number of NARs fetched for others at once.
	maxDownloads = 16
	// maxAskerAddrs bounds the addresses of which is counted what they have asked for: it is more than a LAN has.
	maxAskerAddrs = 4096
	// infoPatience is how long a neighbour may take to answer from its upstream: longer than most upstreams take; then
	// ours is asked.
	infoPatience = 2 * time.Second
)
