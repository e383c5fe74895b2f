package ask

import (
	"time"

	"narbor/p2p/peers"
	"narbor/store"
)

// The limits of a question to neighbours, with the argument for each value. The bounds of what one neighbour can be
// asked are in peers/peerlimits.go, those of waits for busy neighbours in peers/busywait.go.
const (
	// maxFindings bounds the memory of which peer has which path: some closures' worth.
	maxFindings = 16 << 10
	// maxLost is how many streams may end before a question that was sent on each counts as unanswered. A stream ends
	// if the neighbour has closed it meanwhile; a neighbour that ends every stream is asked no more often.
	maxLost = 2
	// maxWanted is how many paths a non-neighbour is asked for: those that Nix missed last, and less than askQueue.
	maxWanted = 512
	// maxFilesAsked bounds the files that are asked for at once, each of all neighbours: these answer one after the
	// other, and take 100 ms for each if they have 60,000 paths. maxFileClaims bounds the claims about one that are
	// tried: more than one has a liar behind it.
	maxFilesAsked, maxFileClaims = 4, 4
	// filePatience is how long a file always waits for the first claim: for maxFilesAsked of these answers. Longer
	// waits, until [peers.BusyTimeout], are bounded by a [peers.BusyWait].
	filePatience = peers.BusyTimeout / 2
	// fileKept is how long the answers of all neighbours about a file are relied on: Nix asks for it again with the
	// next method, or in the next attempt. maxFilesKnown bounds the memory of these.
	fileKept, maxFilesKnown = 5 * time.Second, 1024
	// maxCandidates is how many paths a neighbour is asked about, so that one is found of which blocks can be asked
	// for: few enough that what it does not have uses up little of what it answers to us in a minute.
	maxCandidates = 32
	// heardLately is how long before a question a neighbour must have been heard from, so that a missing answer counts
	// as a lost packet: TCP sends that again after 200 ms or more, too late for [peers.InfoTimeout], and a full or weak
	// link loses some packets every second. It is no longer than the stream of a dead neighbour is kept. lossTime is
	// how long a neighbour may have been late for that: meanwhile TCP sends the packet twice. So a machine that was
	// switched off costs one such wait, and leaves time to wait for neighbours that are busy.
	heardLately, lossTime = peers.AskTimeout, 3 * peers.InfoTimeout / 2
	// starvedAfter is how late a timer may be before this machine counts as busy itself: the answer may be here,
	// unread.
	starvedAfter = 50 * time.Millisecond
	// refreshTimeout bounds the delay that repeating the question adds to a NAR of which a holder is known.
	refreshTimeout = 20 * time.Millisecond
	// refreshSize is the number of bytes from which on peers are asked once more, before a NAR is fetched, whether they
	// are receiving it, too: the cost of a round trip against that of fetching from a holder what another peer is
	// fetching at that moment.
	refreshSize = store.BlockSize / 8
	// offerQueue bounds the mappings that wait to be offered, and offersAtOnce those that are offered together: Nix
	// asks about some 25 at a time. maxOffered and maxOfferedTo bound the memory of offers, and of the answers to them.
	offerQueue, offersAtOnce, maxOffered, maxOfferedTo = 1024, 64, 4096, 512
	// offerPatience is how long a neighbour may take to answer offers, and so how long a fetch waits for one, or
	// [Lookups.OfferNow].
	offerPatience = peers.InfoTimeout
	// offerAgain is how long a mapping is not offered to a neighbour again, and offerRetry how long if it has not
	// answered.
	offerAgain, offerRetry = 10 * time.Minute, time.Minute
	// maxVain is the number of offers in a row that a neighbour may refuse before it gets none for vainPause: so an
	// update of which it has nothing costs it little.
	maxVain, vainPause = 256, 10 * time.Minute
	// offeredSize is the number of bytes of a NAR from which on further holders are looked for by an offer: some
	// seconds at the speed of Wi-Fi.
	offeredSize = 64 * store.BlockSize
)
