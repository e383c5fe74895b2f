package p2p

import "time"

// Everything that bounds what a peer, or whoever pretends to be one, can make this machine do: its size, count, rate or
// deadline, with the argument for the value. The sizes of a NAR, of its blocks and of a claim follow from what an
// upstream has signed, and from store.BlockSize and store.MaxInfoLen.

// Sizes, in bytes.
const (
	// maxRequestLen is the longest request, its length prefix not counted: a full one about claims.
	maxRequestLen = 1 + maxClaims*hashPartBytes
	// maxFurtherLen is how much text the claims in an answer may have together that were not asked for, and maxFurther
	// how many they may be: two rounds of Nix's, which asks for 25 paths at a time, in less than a window of yamux's.
	maxFurther, maxFurtherLen = 64, 32 << 10
	// maxToldLen is the longest claim that was not asked for and is kept, maxTold how many of one neighbour's are: 512
	// KiB at most.
	maxTold, maxToldLen = 512, 1 << 10
	// maxReason is how much of a reason is logged and kept: what a liar has said may be part of it.
	maxReason = 500
	// maxAddrText is the longest address in an announcement that is looked at.
	maxAddrText = 200
	// maxMemory is what libp2p may hold in buffers for all peers together.
	maxMemory = 256 << 20
	// firstWindow is what a stream may send before the receiver answers; lastWindow is what that can grow to, enough
	// for 2.5 Gbit/s at 13 ms.
	firstWindow, lastWindow = 1 << 20, 4 << 20
	// queueMin may lie in queues to a peer: it keeps a slow link busy while the next block is read and compressed.
	queueMin = 128 << 10
	// sharedMin and sharedMax bound what may lie in queues on all connections to one address, if they are several: what
	// one machine with one connection has there while it fetches as fast as it can. So a machine gets no more of our
	// link and our processors for having many.
	sharedMin, sharedMax = 512 << 10, 2 << 20
)

// Counts: of what one request or announcement may hold.
const (
	// maxClaims is how many hash parts one request may ask for: a large closure's worth, in 20 KiB.
	maxClaims = 1024
	// maxAddrs bounds the addresses of one machine, ours and others', and maxTexts the strings of an announcement that
	// are looked at.
	maxAddrs, maxTexts = 8, 4 * maxAddrs
	// maxToldPeers is how many peers a neighbour tells of at a time, each with one address of at most maxPeerAddr bytes:
	// who is told of more asks those.
	maxToldPeers, maxPeerAddr = 16, 128
	// maxNamedAddrs bounds the addresses that one DNS name may stand for.
	maxNamedAddrs = 8
	// minPort is the lowest port that is dialled because of an announcement: narbor cannot have a lower one without
	// privileges, and it would be what a router or a printer is managed by.
	minPort = 1024
)

// Counts: of connections and of what is under way at once.
const (
	// maxConns is far above the neighbours of any LAN that multicast still works on.
	maxConns = 512
	// connsHigh and connsLow: when there are more than the one, idle connections are closed down to the other.
	connsHigh, connsLow = 160, 128
	// connsPerIP leaves room for the virtual machines behind one address.
	connsPerIP = 32
	// maxPeerStreams bounds the streams between us and one peer, in each direction. A few long-lived ones do.
	maxPeerStreams = 64
	// maxStreams bounds those that all peers together have opened, and maxAddrStreams those from one address: what Nix
	// needs at its busiest, for the dozen virtual machines that may be there.
	maxStreams, maxAddrStreams = 8 * maxConns, 256
	// maxIdleStreams is how many streams are kept open between NARs to one neighbour: Nix fetches up to 16 at once.
	maxIdleStreams = 16
	// maxServing bounds the answers of a kind under way at once, and so the memory they take: a block each, or two
	// for a moment. maxServingPeer bounds those to one peer: a machine that falls asleep while it reads keeps its
	// answers until [serveStall], and must not keep everybody else's turns. maxServingAddr bounds those to one
	// address, for peers cost nothing to invent; it leaves enough for the virtual machines behind it.
	maxServing, maxServingPeer, maxServingAddr = 128, 8, 32
	// maxUploads bounds the blocks that are read and packed at once, and maxUploadsPeer those for one peer: what disk
	// and processors spend on others. A block that is ready waits for its reader without such a turn, or the slow
	// would keep the quick waiting.
	maxUploads, maxUploadsPeer = 8, 2
	// maxOpenNARs bounds the archives held open for neighbours, each with a few file descriptors.
	maxOpenNARs = 64
	// askQueue is how many questions may wait for one neighbour.
	askQueue = 1024
	// maxAsked is how many requests about claims may be under way to one neighbour. Questions that come meanwhile
	// wait and go out together: they would be answered after the others anyway, and what each message costs, on both
	// sides, is ten times what another question in it costs.
	maxAsked = 1
	// maxLost is how many streams to a neighbour may end without an answer to a question before it counts as not answered.
	// One ends when the neighbour has closed it meanwhile; a neighbour that ends every stream is asked no more often.
	maxLost = 2
	// maxWorkers is how many holders are asked for blocks of one NAR at once; the others stand by.
	maxWorkers = 8
	// maxRelays bounds those from whom a NAR is taken that they are still receiving themselves, and relayWindow the
	// blocks under way from one: its answers wait, so that there is no pace to measure.
	maxRelays, relayWindow = 16, 4
	// maxCopies is how many holders may be asked for one block before one of them has answered or failed.
	maxCopies = 3
	// maxHelping bounds the questions to upstreams that are asked at once on behalf of neighbours, and maxHelpingPeer those
	// for one: what its Nix asks at a time. maxJobs is how many NARs are fetched for others at once.
	maxHelping, maxHelpingPeer, maxJobs = 128, 24, 16
	// maxFailed bounds the memory of what could not be fetched for others.
	maxFailed = 1024
	// maxHelpers is how many neighbours are asked, one after the other, to fetch a NAR, before it is fetched here.
	maxHelpers = 2
	// maxDials is how many machines are dialled at a time.
	maxDials = 8
	// maxKept is how many neighbours a machine looks for, of those who announce themselves: with fewer, everybody is
	// connected to everybody. Each costs memory, some 200 KiB, and each is asked for every path.
	maxKept = 64
	// maxDialBacks is how many neighbours of a link are asked to connect to this machine: one that lies, or has a firewall
	// of its own against it, is contradicted by another.
	maxDialBacks = 3
	// maxVisits is how many strangers are dialled at a time, to be asked for what no neighbour has, and maxHosts how many
	// stay because they had something: the holders of some closures.
	maxVisits, maxHosts = 8, 16
	// maxWanted is how many paths a stranger is asked for: those that Nix missed last, and less than askQueue.
	maxWanted = 512
)

// Counts: of what is remembered.
const (
	// maxKnown bounds the machines that are remembered because they announced themselves. Announcing costs
	// nothing, so when it is full whoever could not be reached most often makes room.
	maxKnown = 512
	// maxHeard bounds the memory of what the addresses in announcements say, at up to 500 bytes each.
	maxHeard = 1024
	// maxTallies bounds what is remembered of peers that come and go, and maxMissAddrs the addresses whose misses are
	// counted, and the machines: more than a LAN has.
	maxTallies, maxMissAddrs = 4096, 4096
	// maxNetworks, maxRemembered and maxRememberedAddrs bound the networks that are remembered, the addresses in each, and
	// those of one peer there; maxNetworkKey is the longest name of a network, in bytes. A few are enough to find all others.
	maxNetworks, maxRemembered, maxRememberedAddrs, maxNetworkKey = 32, 32, 2, 160
	// maxAdded bounds the peers that are added while narbor runs, and maxPeerText the bytes of one: a multiaddr with the
	// longest DNS name and an ID.
	maxAdded, maxPeerText = 64, 512
	// maxBlocked bounds the list of blocked peers. A peer ID costs nothing to make, so the list is a convenience
	// against the honest and broken, not a wall: the one to be forgotten first goes.
	maxBlocked = 1024
	// maxBlockedByUser bounds those of them that the user has named, who are never forgotten.
	maxBlockedByUser = maxBlocked / 4
	// maxFindings bounds the memory of who has what: some closures' worth.
	maxFindings = 16 << 10
	// maxChecked bounds the memory of verified signatures, at about 1 KiB each, and maxCheckedRefs what one may take.
	maxChecked, maxCheckedRefs = 4096, 64
	// maxToldParts bounds what a neighbour is trusted to remember that it was told unasked, see [toldFor].
	maxToldParts = 4096
)

// Counts: of offences.
const (
	// maxStrikes is how many lies a peer may tell before it is banned.
	maxStrikes = 3
	// maxWrong is how many wrong NARs, of different paths in an hour, set a peer aside: as many as it may tell lies. And
	// maxAvoided bounds the pairs of peers and NARs that are remembered.
	maxWrong, maxAvoided = maxStrikes, 4096
	// lied, as a number of failures, is how many end a holder's part in a fetch: one lie, or so many broken streams.
	lied = 3
	// stalled is as how many failures a holder counts that made no progress until its time was over: one more ends its part.
	stalled = lied - 1
)

// Rates.
const (
	// dialRate, a second, and dialBudget bound how often a flood of announcements can make us dial at all: a LAN's worth
	// at once, then a trickle.
	dialRate, dialBudget = 8, 48
	// hearRate, a second, and hearBurst bound the packets about narbor that are taken apart, on a link and in one family:
	// all that a LAN of thousands answers to a question, and then a moderate flood's.
	hearRate, hearBurst = 256, 4096
	// wrongRate, a second, and wrongBurst bound how often one peer can have a path of this machine hashed because it says
	// that its NAR is wrong; all at its address together have missShares times as much.
	wrongRate, wrongBurst = 1.0 / 60, 16
	// tellRate, a second, and tellBurst bound how often one peer is told of our neighbours. It asks when it joins, and
	// then ever less often.
	tellRate, tellBurst = 1, 4
	// dialBackAddrRate, a second, and dialBackAddrBurst bound how often a neighbour at one address has us connect to it: a
	// user who mends a firewall tries some times in a row. dialBackRate and dialBackBurst bound it for all addresses
	// together, which cost nothing in an IPv6 /64: some 20 connections are under way at most.
	dialBackAddrRate, dialBackAddrBurst = 0.2, 4
	dialBackRate, dialBackBurst         = 2, 16
	// visitRate, a second, and visitBurst bound how many strangers are visited: on a LAN of 500 all within 15 s, for a
	// tenth of a processor meanwhile.
	visitRate, visitBurst = 32, 64
	// dialsPerSecond and dialBurst bound how fast one address may connect to us anew.
	dialsPerSecond, dialBurst = 2, 64
	// missBurst is what an honest machine may need at once. One that builds 5,000 paths that nobody has asks for each
	// once; one that fetches them from another neighbour asks us twice for some, when Nix looks and when it fetches.
	missBurst = 8000
	// missesPerMinute is what a peer gets back, and so what a dictionary yields in the long run.
	missesPerMinute = 1000
	// narMisses are left for blocks and manifests when claims have spent all others: whoever has asked for too much is
	// still given what it has been told of, even if some of that has been collected as garbage since.
	narMisses = 1000
	// missShares is for how many peers the misses of one machine last, and the questions to upstreams. Identities cost
	// nothing; and several virtual machines may stand behind one address.
	missShares = 4
	// missMachines is for how many machines the misses of all last. Link-layer addresses can be forged, so there is a bound
	// for all together; it lets a room of 40 machines ask for a closure of 3,000 paths at once.
	missMachines = 4
	// missPatience is how many questions of a peer may be left unanswered before that is held against it, and
	// missesPerMinute of these are forgotten. An honest machine may well ask for more than its burst, and loses nothing but
	// what we might have had: in an hour it may ask about 180,000 paths, more than nixpkgs has packages, and is not struck.
	missPatience = 60_000
	// helpBurst is for how many questions an upstream is asked for a peer, whatever it says, before missesPerMinute more
	// come back: as missBurst, for the same machine. Somebody who wants more has an upstream too.
	helpBurst = missBurst
	// manifestPace, in bytes of the NAR per second, and manifestTimeout bound how long a holder may take to hash a NAR
	// that it has to read from a slow disk first.
	manifestTimeout, manifestPace = 10 * time.Second, 32 << 20
	// manifestLimit is the longest, however large the NAR: without a manifest more is fetched again, and no more is lost.
	manifestLimit = 30 * time.Second
)

// Deadlines: of whoever asks us.
const (
	// serveStall is how long an answer may make no progress before the stream is reset. A neighbour reads as fast
	// as its link and disk allow, and 256 KiB take 20 s at 100 kbit/s.
	serveStall = 30 * time.Second
	// scarceStall is the same while more than half of maxServing are taken: then whoever reads so slowly is in the way.
	scarceStall = 2 * time.Second
	// shareTimeout bounds what a stuck Nix daemon or disk can cost one request of a neighbour, who would ask
	// somebody else long before.
	shareTimeout = 10 * time.Second
	// relayWait is how long a request for a block waits for it at somebody who is still receiving it. Its asker has
	// other sources, and takes it from there if it is told so.
	relayWait = 250 * time.Millisecond
	// queueTime is how much of a link's time blocks may lie in queues on this side of it. A neighbour's question about
	// claims is answered behind them, and it waits 250 ms at most, maybe while several others fetch, too. queuePatience
	// bounds the wait for a queue to drain, whatever the kernel says, and sharedPatience that for the queues of all
	// connections to one address.
	queueTime, queuePatience, sharedPatience = 20 * time.Millisecond, 250 * time.Millisecond, time.Second
	// openNARIdle is how long an archive stays open after its last use: a neighbour that asks for block after
	// block, with pauses, finds it open; and garbage collection is not held up for long.
	openNARIdle = 10 * time.Second
	// machineFresh is for how long it is relied on which machine has an address: the kernel's neighbour table is read once for
	// many streams.
	machineFresh = time.Minute
	// toldFor is for how long a neighbour is trusted to remember what it was told unasked. It asks for what it has
	// forgotten.
	toldFor = 30 * time.Second
)

// Deadlines: of whom we ask.
const (
	// infoTimeout bounds what one unresponsive neighbour can add to a build. Neighbours share our network: one that
	// needs longer is worse than asking the internet. It leaves a part of narserve's 300 ms to the own store.
	infoTimeout = 250 * time.Millisecond
	// secretTimeout bounds what this machine's own sources can add to a question before neighbours are asked: the Nix
	// database answers within 1 ms.
	secretTimeout = infoTimeout / 2
	// refreshTimeout bounds what asking again may delay a NAR of which a holder is known.
	refreshTimeout = 20 * time.Millisecond
	// askTimeout is how long a neighbour may leave a question about claims unanswered before the stream is given
	// up. It is longer than anybody waits for the answer, so that one late answer does not cost a new stream.
	askTimeout = 2 * time.Second
	// claimsTimeout bounds the answers to one request about claims, trickle as they may.
	claimsTimeout = 10 * time.Second
	// lateAfter is how long a neighbour may leave all questions unanswered before nobody waits for it any more. A
	// moment's stall of a busy machine must not turn into a burst of misses, which Nix would remember for an hour; one
	// that has died costs this once, and its connection is gone after 8 s.
	lateAfter = time.Second
	// toldFresh is how long claims are kept that were not asked for: Nix asks for what it is about to ask for within a
	// moment.
	toldFresh = 5 * time.Second
	// openTimeout bounds how long opening a stream to a connected neighbour may take.
	openTimeout = 3 * time.Second
	// overdueAfter is how late a block may be before a stand-by holder takes part, and what a block is expected to
	// take from a holder that was never measured.
	overdueAfter = 50 * time.Millisecond
	// hopelessAfter is how late a block may be before [maxCopies] counts no longer: those who were asked may be in
	// league, each sending a byte now and then.
	hopelessAfter = time.Second
	// readStall is how long a block may make no progress. Whoever else has the block has been asked by then; this
	// only frees what waits for a neighbour that will never answer.
	readStall = 5 * time.Second
	// blockTimeout bounds what a trickle can hold up: 256 KiB take 20 s at 100 kbit/s.
	blockTimeout = 30 * time.Second
	// relayStall is how long a fetch goes on without a holder of the whole NAR and without a single block: those who
	// receive it from each other alone would wait for ever.
	relayStall = 5 * time.Second
	// banTime is how long a banned peer is refused: long enough to be rid of it for a build, short enough that a
	// machine with a broken disk is welcome again once it is repaired.
	banTime = time.Hour
	// wrongFor is how long a NAR is not taken again from a peer whose copy was wrong. A sharer that repairs its store earlier
	// is no worse off: others take the path from it.
	wrongFor = time.Hour
	// asideTime is how long a peer with maxWrong wrong NARs is set aside, and maxAside the longest.
	asideTime, maxAside = 10 * time.Minute, time.Hour
)

// mismatchTime is how long it is reported that a neighbour has signatures that do not verify with the key of that name here.
const mismatchTime = time.Hour

// Deadlines: of those who ask an upstream on behalf of others.
const (
	// infoPatience is how long a neighbour may take to say what its upstream says: longer than most upstreams take, and
	// then ours is asked. fetchPatience is the same for whether it will fetch something.
	infoPatience, fetchPatience = 2 * time.Second, 3 * time.Second
	// pollEvery is how often a neighbour is asked how far the NAR is that it fetches, and leaseTime how long it goes on
	// without being asked.
	pollEvery, leaseTime = 500 * time.Millisecond, 6 * time.Second
	// helpPatience is how long a neighbour that fetches for us may receive nothing at all, or say nothing. Of what it says
	// to receive, something must come: deafPatience is how long nothing may, or on a slow line as long as it takes to
	// receive deafBlocks, and deafLimit at most; and what has come of the NAR, and deafBlocks more, is no less than a
	// download of its brings, divided by paceSlack.
	helpPatience, deafPatience, deafLimit = 5 * time.Second, 10 * time.Second, 60 * time.Second
	deafBlocks, paceSlack                 = 4, 8
	// waitedEnough is how long one neighbour may have been waited for before no other is elected for that NAR.
	waitedEnough = 15 * time.Second
	// slowFactor is how many times slower than here a download must be there for it to be tried here instead. Those who
	// share a line share it evenly, download by download.
	slowFactor = 3
	// paceMemory is over how much time of downloads their pace is averaged, and paceLeast from how much on it is known.
	// After paceIdle without a download it is unknown again: the machine may be at another line.
	paceMemory, paceLeast, paceIdle = 60 * time.Second, time.Second, 2 * time.Minute
	// slowPace, in bytes per second and download, is too slow in any case: four at once at 1 Mbit/s.
	slowPace = 32 << 10
	// shunTime is how long who has failed to help is not asked again, and four times as long each time, up to maxShun. A liar
	// that is always a little better than what ends its trial holds up one NAR for some 20 s, and those of the same moment.
	shunTime, maxShun = time.Minute, time.Hour
	// judgedAfter is how long the pace of a fetch is watched before it is judged whether the NAR can come in time, and
	// crawlTime how long its holders may need for the rest of it before an upstream is asked, too.
	judgedAfter, crawlTime = 10 * time.Second, 20 * time.Second
	// leastPace, in bytes a second, is what must come from the holders of a NAR, of all NARs together, if its rest takes
	// longer than crawlTime; or the part shownPart of what they have shown, up to mostLeastPace: a disk whose head is somewhere
	// else all the time gives four times as much.
	leastPace, mostLeastPace, shownPart = 64 << 10, 256 << 10, 64
	// tardyAfter is how long a NAR may take that comes more slowly than that: a disk may have to start.
	tardyAfter = 5 * time.Second
	// slowFor is how long a NAR is not taken from a peer alone that has delivered it far too slowly, and failedFor if it has
	// not delivered it otherwise: it may have been collected as garbage, and be built again.
	slowFor, failedFor = 10 * time.Minute, time.Minute
	// jobTimeout bounds a fetch on behalf of neighbours, whose Nix waits no longer for it.
	jobTimeout = 4 * time.Minute
	// powerFresh is for how long it is relied on that a machine is on mains or on battery: to ask takes a few files, of
	// which an embedded controller may take milliseconds for one.
	powerFresh = 10 * time.Second
)

// Deadlines: of connections and of discovery.
const (
	// keepAlive and writeTimeout together are how long a pulled cable goes unnoticed at most: 8 s with some room. On
	// Linux the kernel sees to that.
	keepAlive, writeTimeout = 4 * time.Second, 3 * time.Second
	// probeTimeout is how long a neighbour may take to show that it is still there, after this machine slept or its
	// cable was out: with looking at the interfaces before and dialling after, less than 5 s.
	probeTimeout = 2500 * time.Millisecond
	// measureRTT is how often yamux measures the way to a peer and back, by which it sizes windows. On a LAN that hardly
	// changes, and it wakes both sides.
	measureRTT = time.Hour
	// connsGrace is how old a connection must be to be closed because there are too many, and how often it is looked
	// whether there are.
	connsGrace = 30 * time.Second
	// dialTimeout is generous for a LAN, where a connection takes milliseconds, but a sleeping disk or a loaded
	// guest may take a second for the handshake.
	dialTimeout = 3 * time.Second
	// The pause before a neighbour is dialled again begins at redialMin and doubles up to redialMax.
	redialMin, redialMax = 500 * time.Millisecond, 30 * time.Second
	// peersTimeout bounds how long a neighbour may take to tell of others, or we to be told.
	peersTimeout = 5 * time.Second
	// dialBackTimeout bounds a connection that a neighbour has asked for: a second attempt of TCP comes after 1 s.
	// dialBackWait bounds the answer, and arrivalGrace how long accepting such a connection may take afterwards.
	dialBackTimeout, dialBackWait, arrivalGrace = 2 * time.Second, 5 * time.Second, time.Second
	// memoryLimit is how long a network is remembered. By then addresses have been given to others.
	memoryLimit = 30 * 24 * time.Hour
	// missFor is for how long a neighbour that has gone is dialled: it may have restarted, and where multicast does not
	// work nobody else will say so.
	missFor = 10 * time.Minute
	// wantedFor is for how long strangers are asked for what was missed: Nix goes on down a closure meanwhile. revisit is
	// for how long one that was asked is left alone, and visitTime how long a visit may take.
	wantedFor, revisit, visitTime = time.Minute, 2 * time.Minute, 2 * time.Second
	// resolveTimeout is longer than a resolver waits before it asks its second server.
	resolveTimeout = 6 * time.Second
	// meterTimeout bounds one question to NetworkManager, which answers in milliseconds and for which nobody waits.
	meterTimeout = time.Second
	// settleLimit bounds how long discovery may take before it counts as settled whatever happened; requests of
	// Nix wait for that.
	settleLimit = 2 * time.Second
)
