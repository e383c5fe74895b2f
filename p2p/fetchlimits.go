package p2p

import "time"

// Everything that bounds what peers can make a download do, with the argument for the value.

// Counts.
const (
	// maxWorkers is how many holders are asked for blocks of one NAR at once; the others stand by.
	maxWorkers = 8
	// maxRelays bounds the neighbours from which a NAR is taken while they are still receiving it, and relayWindow the
	// blocks under way from one of them: its answers wait, so there is no pace to measure.
	maxRelays, relayWindow = 16, 4
	// maxCopies is how many holders may be asked for one block before one of them has answered or failed.
	maxCopies = 3
	// maxHelpers is how many neighbours are asked, one after the other, to fetch a NAR, before it is fetched here.
	maxHelpers = 2
	// lied is the number of failures that end a holder's part in a fetch: broken streams count one each, a lie counts
	// as all of them.
	lied = 3
	// stalled is the number of failures that a holder is charged for making no progress within its time: one more ends
	// its part.
	stalled = lied - 1
)

// Deadlines: for holders and partial peers.
const (
	// holdersFresh is how long the answers about which peers have a path are relied on. In a swarm that wants the same
	// closure, new holders appear all the time after Nix asked for the narinfo; asking costs a fraction of a
	// millisecond.
	holdersFresh = 2 * time.Second
	// relayWait is how long a request for a block waits at a peer that is still receiving that block. The asker has
	// other sources, and requests it from them when the answer is "not here yet".
	relayWait = 250 * time.Millisecond
	// overdueAfter is how late a block may be before a stand-by holder takes part, and the time that a block is
	// expected to take from a holder that was never measured.
	overdueAfter = 50 * time.Millisecond
	// hopelessAfter is how late a block may be before [maxCopies] no longer applies: the holders that were asked may
	// cooperate, each sending a byte now and then.
	hopelessAfter = time.Second
	// relayStall is how long a fetch goes on without a holder of the whole NAR and without a single block: peers that
	// receive the NAR only from each other would wait for ever.
	relayStall = 5 * time.Second
	// judgedAfter is how long the pace of a fetch is watched before narbor decides whether the NAR can come in time,
	// and crawlTime how long its holders may need for the rest of it before an upstream is asked, too.
	judgedAfter, crawlTime = 10 * time.Second, 20 * time.Second
	// tardyAfter is how long a NAR may take that arrives more slowly than that: a disk may have to spin up.
	tardyAfter = 5 * time.Second
)

// Deadlines: for proxies.
const (
	// pollEvery is how often a neighbour that fetches a NAR for us is asked for its progress, and leaseTime how long it
	// continues without being asked.
	pollEvery, leaseTime = 500 * time.Millisecond, 6 * time.Second
	// helpPatience is how long a neighbour that fetches for us may receive nothing at all, or send nothing about it. Of
	// the bytes that it reports, some must reach us: deafPatience is how long none may, or on a slow line as long as it
	// takes to receive deafBlocks, but at most deafLimit. The bytes of the NAR that have reached us, plus deafBlocks,
	// must not be fewer than one of its downloads yields, divided by paceSlack.
	helpPatience, deafPatience, deafLimit = 5 * time.Second, 10 * time.Second, 60 * time.Second
	deafBlocks, paceSlack                 = 4, 8
	// waitedEnough is the time spent waiting for one neighbour after which no other is elected for that NAR.
	waitedEnough = 15 * time.Second
	// slowFactor is how many times slower a download there must be than here before it is tried here instead. Machines
	// that share a line share it evenly, download by download.
	slowFactor = 3
	// paceMemory is the download time over which the pace is averaged, and paceLeast the download time from which on it
	// is known. After paceIdle without a download it is unknown again: the machine may be at another line.
	paceMemory, paceLeast, paceIdle = 60 * time.Second, time.Second, 2 * time.Minute
	// slowPace, in bytes per second and download, is too slow in any case: four at once at 1 Mbit/s.
	slowPace = 32 << 10
	// jobTimeout bounds a fetch on behalf of neighbours: their Nix does not wait longer.
	jobTimeout = 4 * time.Minute
)
