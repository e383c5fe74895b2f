package serve

import "time"

// The limits of answers to peers, real or forged.

// Counts: of concurrent work.
const (
	// maxPeerStreams bounds the streams that one peer has open to us. A few long-lived ones do.
	maxPeerStreams = 64
	// maxStreams bounds those that all peers together have opened, and maxAddrStreams those from one address: what Nix
	// needs at its busiest, for the dozen virtual machines that may be there.
	maxStreams, maxAddrStreams = 64 * maxPeerStreams, 256
	// maxServing bounds the answers of a kind under way at once, and so the memory they take: a block each, or two for
	// a moment. maxServingPeer bounds those to one peer: a machine that falls asleep while it reads keeps its answers
	// until [serveStall], and must not block the turns of all other peers. maxServingAddr bounds those to one address,
	// because new peer IDs cost nothing; it leaves enough for the virtual machines behind the address.
	maxServing, maxServingPeer, maxServingAddr = 128, 8, 32
	// maxUploads bounds the blocks that are read and packed at once, and maxUploadsPeer those for one peer: the disk
	// and processor time spent on others. A block that is ready waits for its reader without such a turn, so that slow
	// readers do not delay fast ones.
	maxUploads, maxUploadsPeer = 8, 2
	// maxOpenNARs bounds the archives held open for neighbours, each with a few file descriptors.
	maxOpenNARs = 64
	// maxProxying bounds the questions to upstreams that are asked at once on behalf of neighbours.
	maxProxying = 128
	// maxNaming bounds the questions for a file for which the names of all paths are read at once. Further ones wait
	// for their turn, for as long as the asker waits for the answer.
	maxNaming, maxNamingPeer = 2, 1
)

// Counts: of remembered items.
const (
	// maxToldParts bounds the hash parts that a neighbour is trusted to remember from unasked claims, see [toldFor].
	maxToldParts = 4096
	// maxMissAddrs bounds the addresses with counted misses, and likewise the machines: it is more than a LAN has.
	maxMissAddrs = 4096
	// maxChecked bounds the memory of verified signatures, at about 1 KiB each.
	maxChecked = 4096
)

// Rates.
const (
	// wrongRate, a second, and wrongBurst bound how often one peer can have a path of this machine hashed because it
	// says that its NAR is wrong; all at its address together have missShares times as much.
	wrongRate, wrongBurst = 1.0 / 60, 16
	// fileRate, a second, and fileBurst bound how often the names of all paths are read for one peer, to find a file by
	// its hash: that takes 100 ms of a processor if there are 60,000. Its machine has missShares times as much, and all
	// machines together have missMachines times that. A build asks for its sources within minutes.
	fileRate, fileBurst = 1.0 / 4, 256
	// missBurst is the number of misses that an honest machine may need at once. A machine that builds 5,000 paths that
	// no neighbour has asks for each once; a machine that fetches them from another neighbour asks us twice for some,
	// when Nix looks and when it fetches.
	missBurst = 8000
	// missesPerMinute is the number of misses that a peer gets back per minute, and so the long-term yield of a
	// dictionary attack.
	missesPerMinute = 1000
	// narMisses are reserved for blocks and manifests when claims have spent all others: a peer that has asked for too
	// much is still served the paths that it has been told of, even if some of them have been garbage-collected since.
	narMisses = 1000
	// missShares is the number of peers for which the misses of one machine, and its questions to upstreams, last.
	// Identities cost nothing, and several virtual machines may share one address.
	missShares = 4
	// missMachines is the number of machines for which the misses of all machines last. Link-layer addresses can be
	// forged, so there is a bound for all together; it lets a room of 40 machines ask for a closure of 3,000 paths at
	// once.
	missMachines = 4
	// missPatience is the number of unanswered questions about different paths after which further ones are a strike;
	// missesPerMinute of them are forgotten. An honest machine may well ask for more than its burst, and loses only the
	// answers that it might have had: in an hour it may ask about 180,000 paths, more than nixpkgs has packages,
	// without a strike.
	missPatience = 60_000
	// proxyBurst is the number of questions for which an upstream is asked on behalf of a peer, whatever the upstream
	// answers, before missesPerMinute more come back: the same as missBurst, for the same machine. A peer that needs
	// more has an upstream, too.
	proxyBurst = missBurst
)

// Deadlines: for peers that ask us.
const (
	// serveStall is how long an answer may make no progress before the stream is reset. A neighbour reads as fast
	// as its link and disk allow, and 256 KiB take 20 s at 100 kbit/s.
	serveStall = 30 * time.Second
	// scarceStall replaces serveStall while more than half of maxServing are taken: then such a slow reader is in the
	// way of others.
	scarceStall = 2 * time.Second
	// shareTimeout bounds the cost of a stuck Nix daemon or disk for one request of a neighbour, which would ask
	// another peer long before.
	shareTimeout = 10 * time.Second
	// openNARIdle is how long an archive stays open after its last use: a neighbour that asks for block after
	// block, with pauses, finds it open; and garbage collection is not held up for long.
	openNARIdle = 10 * time.Second
	// machineFresh is how long the mapping from an address to a machine is relied on: the kernel's neighbour table is
	// read once for many streams.
	machineFresh = time.Minute
	// toldFor is how long a neighbour is trusted to remember an unasked claim. If it has forgotten the claim, it asks.
	toldFor = 30 * time.Second
)
