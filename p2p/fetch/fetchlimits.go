package fetch

import "time"

// All bounds on the work that peers can cause in a download, with the argument for each value.

// Counts.
const (
	// maxWorkers is how many holders are asked for blocks of one NAR at once; the others stand by.
	maxWorkers = 8
	// maxPartials bounds the neighbours from which a NAR is taken while they are still receiving it, and PartialWindow
	// the blocks under way from one of them: its answers wait, so there is no pace to measure.
	maxPartials, PartialWindow = 16, 4
	// MaxRequests is how many holders may be asked for one block before one of them has answered or failed.
	MaxRequests = 3
	// maxProxies is how many neighbours are asked, one after the other, to fetch a NAR, before it is fetched here.
	maxProxies = 2
	// lied is the number of failures that end a holder's part in a fetch: broken streams count one each, a lie counts
	// as all of them.
	lied = 3
	// stalled is the number of failures that a holder is charged for making no progress within its time: one more ends
	// its part.
	stalled = lied - 1
)

// Deadlines: for holders and partial peers.
const (
	// tick is the interval of the check for overdue blocks.
	tick = 10 * time.Millisecond
	// BlockTimeout bounds how long a block that trickles in can take: 256 KiB take 20 s at 100 kbit/s.
	BlockTimeout = 30 * time.Second
	// failedFor is how long a NAR is not taken from a peer alone after a failure to deliver it: the path may have been
	// garbage-collected, and be built again.
	failedFor = time.Minute
	// HoldersFresh is how long the answers about which peers have a path are relied on. In a swarm that wants the same
	// closure, new holders appear all the time after Nix asked for the narinfo; asking costs a fraction of a
	// millisecond.
	HoldersFresh = 2 * time.Second
	// PartialWait is how long a request for a block waits at a peer that is still receiving that block. The asker has
	// other sources, and requests it from them when the answer is "not here yet".
	PartialWait = 250 * time.Millisecond
	// overdueAfter is how late a block may be before a stand-by holder takes part, and the time that a block is
	// expected to take from a holder that was never measured.
	overdueAfter = 50 * time.Millisecond
	// hopelessAfter is how late a block may be before [MaxRequests] no longer applies: the holders that were asked may
	// cooperate, each sending a byte now and then.
	hopelessAfter = time.Second
	// PartialStall is how long a fetch goes on without a holder of the whole NAR and without a single block: peers that
	// receive the NAR only from each other would wait for ever.
	PartialStall = 5 * time.Second
	// judgedAfter is how long the pace of a fetch is watched before narbor decides whether the NAR can come in time,
	// and crawlTime how long its holders may need for the rest of it before an upstream is asked, too.
	judgedAfter, crawlTime = 10 * time.Second, 20 * time.Second
	// tardyAfter is how long a NAR may take that arrives more slowly than that: a disk may have to spin up.
	tardyAfter = 5 * time.Second
)

// Deadlines: for proxies.
const (
	// pollEvery is how often a neighbour that fetches a NAR for us is asked for its progress, and ProxyExpiry how long
	// it continues without being asked.
	pollEvery, ProxyExpiry = 500 * time.Millisecond, 6 * time.Second
	// ProxyPatience is how long a neighbour that fetches for us may receive nothing at all, or send nothing about it.
	// Of the bytes that it reports, some must reach us: silentPatience is how long none may, or on a slow line the time
	// in which it receives silentBlocks, but at most silentLimit. The bytes of the NAR that have reached us, plus
	// silentBlocks, must not be fewer than one of its downloads yields, divided by rateSlack.
	ProxyPatience, silentPatience, silentLimit = 5 * time.Second, 10 * time.Second, 60 * time.Second
	silentBlocks, rateSlack                    = 4, 8
	// waitedEnough is the time spent waiting for one neighbour after which that NAR is assigned to no other.
	waitedEnough = 15 * time.Second
	// slowFactor is how many times slower a download there must be than here before it is tried here instead. Machines
	// that share a line share it evenly, download by download.
	slowFactor = 3
	// throughputMemory is the download time over which the pace is averaged, and throughputLeast the download time from
	// which on it is known. After throughputIdle without a download it is unknown again: the machine may be at another
	// line.
	throughputMemory, throughputLeast, throughputIdle = 60 * time.Second, time.Second, 2 * time.Minute
	// slowRate, in bytes per second and download, is too slow in any case: four at once at 1 Mbit/s.
	slowRate = 32 << 10
)
