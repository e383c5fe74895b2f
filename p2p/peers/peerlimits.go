package peers

import "time"

// Bounds on what one peer can make this machine keep or wait for.
const (
	// maxPushedLen is the length of the longest claim that is kept although it was not asked for, and maxPushed the
	// number of them kept per neighbour: 512 KiB at most.
	maxPushed, maxPushedLen = 512, 1 << 10
	// maxReason is the number of bytes of a reason that are logged and kept: the reason may contain text from a
	// malicious peer.
	maxReason = 500
	// maxIdleStreams is how many streams are kept open between NARs to one neighbour: Nix fetches up to 16 at once.
	maxIdleStreams = 16
	// askQueue is how many questions may wait for one neighbour.
	askQueue = 1024
	// maxAsked is the number of requests about claims that may be under way to one neighbour. Questions that arrive
	// meanwhile wait and go out together: they would be answered after the others anyway, and a message costs, on both
	// sides, ten times as much as another question in it.
	maxAsked = 1
	// MaxProxyingPeer bounds the questions to upstreams that are asked at once on behalf of one neighbour: as many as
	// its Nix asks at a time.
	MaxProxyingPeer = 24
	// MaxTallies bounds the peers that are remembered although they come and go. It is more than a LAN has.
	MaxTallies = 4096
	// maxDenied bounds the bans. A peer ID costs nothing to make, so the list is a convenience
	// against honest but broken peers and no protection against attackers: when it is full, the entry that would be
	// forgotten first goes.
	maxDenied = 1024
	// maxBlocked bounds the peers that the user blocks, which are never forgotten.
	maxBlocked = maxDenied / 4
	// MaxCheckedRefs is the number of references of the longest claim that is kept after it was checked.
	MaxCheckedRefs = 64
	// maxStrikes is how many lies a peer may tell before it is banned.
	maxStrikes = 3
	// maxWrong is the number of wrong NARs, of different paths within an hour, that set a peer aside: as many as the
	// lies before a ban. maxAvoided bounds the pairs of peers and NARs that are remembered.
	maxWrong, maxAvoided = maxStrikes, 4096
	// tellRate, a second, and tellBurst bound how often one peer is told of our neighbours. It asks when it joins, and
	// then ever less often.
	tellRate, tellBurst = 1, 4
	// AskTimeout is how long a neighbour may leave a question about claims unanswered before the stream is given up. It
	// is longer than any caller waits for the answer, so that one late answer does not cost a new stream.
	AskTimeout = 2 * time.Second
	// claimsTimeout bounds the answers to one request about claims, trickle as they may.
	claimsTimeout = 10 * time.Second
	// lateAfter is how long a neighbour may leave all questions unanswered before lookups stop waiting for it. A short
	// stall of a busy machine must not turn into a burst of misses, which Nix would remember for an hour; a machine
	// that has died costs [BusyTimeout] once and this twice, and its connection is gone after 8 s.
	lateAfter = time.Second
	// pushedFresh is how long unasked claims are kept: Nix asks for the next paths of a closure within a moment.
	pushedFresh = 5 * time.Second
	// openTimeout bounds how long opening a stream to a connected neighbour may take.
	openTimeout = 3 * time.Second
	// ReadStall is how long a block may make no progress. All other holders of the block have been asked by then; this
	// only frees the resources that wait for a neighbour that will never answer.
	ReadStall = 5 * time.Second
	// banTime is how long a banned peer is refused: long enough to be rid of it for a build, short enough that a
	// machine with a broken disk is accepted again soon after its repair.
	banTime = time.Hour
	// wrongFor is how long a NAR is not taken again from a peer that had a wrong copy. If that peer repairs its store
	// earlier, it loses nothing: others take the path from it.
	wrongFor = time.Hour
	// asideTime is how long a peer with maxWrong wrong NARs is set aside, and maxAside the longest.
	asideTime, maxAside = 10 * time.Minute, time.Hour
	// mismatchTime is how long it is reported that a neighbour has signatures that do not verify with the key of that
	// name here.
	mismatchTime = time.Hour
	// rateFresh is how long the rate of a neighbour is relied on to say that a NAR takes too long: then it is tried
	// again.
	rateFresh = time.Minute
	// FetchPatience is how long a neighbour may take to answer a request to download a NAR.
	FetchPatience = 3 * time.Second
	// BackoffTime is how long a neighbour that has failed as a proxy is not asked again; it quadruples with each
	// failure, up to maxBackoff. A malicious one that always does slightly better than the limits above holds up one
	// NAR for some 20 s, and those of the same moment.
	BackoffTime, maxBackoff = time.Minute, time.Hour
	// If the rest of a NAR takes longer than crawlTime, its holders must deliver at least LeastPace bytes a second, of
	// all NARs together; or 1/shownPart of the highest rate that they have shown, if that is more, up to mostLeastPace:
	// a disk that seeks all the time gives four times as much.
	LeastPace, mostLeastPace, shownPart = 64 << 10, 256 << 10, 64
	// SlowFor is how long a NAR is not taken from a peer alone that has delivered it far too slowly.
	SlowFor = 10 * time.Minute
	// manifestPace, in bytes of the NAR per second, and manifestTimeout bound how long a holder may take to hash a NAR
	// that it has to read from a slow disk first.
	manifestTimeout, manifestPace = 10 * time.Second, 32 << 20
	// manifestLimit is the longest, however large the NAR: without a manifest more is fetched again, and no more is
	// lost.
	manifestLimit = 30 * time.Second
)
