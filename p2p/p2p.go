// Package p2p finds the neighbours that run narbor, asks them what they have, and fetches NARs from them. What
// it returns has been checked: a [trust.Mapping] from [Node.Lookup], and from [Node.Fetch] an archive whose every
// byte was hashed against one. To its callers bytes come in no other way; to neighbours it also passes on blocks of
// NARs that are still arriving, and says that nobody has verified them. In the other direction a neighbour is
// told only of paths that an upstream has signed, and only if it asks for exactly that path, or has been told of one
// that refers to it.
//
// # Wire format
//
// Neighbours speak the libp2p protocol "/narbor/1" over TCP, secured by TLS 1.3 or Noise and multiplexed by
// yamux; a virtual machine and its host do so over vsock(7), too, where the host listens at port 6273. Whoever opens a stream sends requests on it, as many as it likes without waiting; the other side answers
// them in order. Streams are kept open between requests. Numbers are unsigned varints (unsigned LEB128, shortest
// form, at most 9 bytes). A violation of this grammar resets the stream.
//
// A request is one frame:
//
//	uvarint  length of the rest, 1 to [maxRequestLen]
//	1 byte   kind: 1 claims, 2 manifest, 3 block, 4 have, 5 upstream, 6 fetch, 7 wrong
//	...      by kind
//
// Claims asks who knows these store paths:
//
//	20 bytes hash part, as decoded from Nix's base 32; 1 to [maxClaims] times
//
// The answer holds for each hash part, in the order asked:
//
//	uvarint  twice the length of the claim, which is at most [store.MaxInfoLen], and 1 more if its sender is still
//	         receiving the NAR; 0 is "not here", whatever the reason
//	...      the claim: narinfo text with StorePath, NarHash, NarSize, References and Sig lines, and nothing else
//
// Then come claims that were not asked for: about references of the paths in claims before them, for they are what
// Nix asks about next. Nobody owes them, and nobody need keep them. There are at most [maxFurther] in an answer,
// with at most [maxFurtherLen] bytes of text:
//
//	uvarint  length of the claim; 0 ends the answer
//	20 bytes hash part
//	...      the claim, as above
//
// Block asks for one block of a NAR. Blocks are numbered from 0 and hold [store.BlockSize] bytes, the last one
// what is left. The hash part tells the holder where to look, the CID what the asker will accept:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR: CIDv1, raw, sha2-256, that is 01 55 12 20 and the 32 bytes of its NarHash
//	uvarint  number of the block
//
// The answer:
//
//	1 byte   0 "not here", which ends the answer; 1 "as it is"; 2 in S2's block format, which extends Snappy's; 3 as
//	         one zstd frame (RFC 8878) with a window of at most [store.BlockSize]; 4 "not here yet", which ends the
//	         answer; 5, 6 and 7 as 1, 2 and 3, of a NAR that is still being received and that nobody has verified
//	uvarint  length of what follows: for 1 the block's, which follows from NarSize; for 2 and 3 less than that
//	...      the block; what it unpacks to has the block's length
//
// The holder chooses for each block: it compresses what the link, as far as it can tell, is slower to carry than
// processors are to compress.
//
// Manifest asks for the content addresses of all blocks of a NAR:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR
//
// The answer:
//
//	uvarint  number of blocks, or 0 for "not here"; it follows from NarSize, and every other value is a violation
//	32 bytes sha2-256 digest of the block (its CID is CIDv1, raw, sha2-256); for each block in order
//
// Have asks which blocks of a NAR somebody has who is still receiving it:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR
//
// The answer:
//
//	uvarint  number of bytes that follow, or 0 for "not here"; it follows from NarSize
//	...      a bit for each block, 1 if it is here: block 0 is the lowest of the first byte, bits left over are 0
//
// Upstream asks what the answerer's upstreams say about a store path:
//
//	20 bytes hash part
//
// The answer:
//
//	1 byte   0 "cannot tell", 1 "they have none", 2 "this"
//	uvarint  for 2: the length of the claim, at most [store.MaxInfoLen]
//	...      the claim, as above
//
// Fetch asks the answerer to fetch a NAR from its upstreams, and again and again how far that is; the blocks are then
// asked for as of anybody who is receiving the NAR:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR
//
// The answer:
//
//	1 byte   0 "no", 2 "under way", 3 "here"
//	uvarint  for 2: how many bytes have come from the answerer's upstreams since it was started, of whatever NARs and
//	         packed as they were, modulo [store.MaxNarSize]
//	uvarint  for 2: how many bytes of its NAR one download from them brings in a second, on average; 0 if that is not known
//
// Wrong tells the answerer that its NAR of a path does not have its hash. It may check that, and offer the path no more:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR, as it should be
//
// The answer, whatever becomes of it:
//
//	1 byte   0
//
// A holder that can no longer read a NAR in the middle of an answer resets the stream.
//
// # Crowds
//
// Machines that receive the same NAR at the same time are a crowd, and feed each other. Whoever is receiving a NAR
// answers claims about it and so tells who asks, and who asks tells it in turn: it is about to receive the NAR, too.
// A member takes from holders of the whole NAR, first of all, the blocks that are its own, and the others' from them.
// A block's own member is the one of the highest score (rendezvous hashing): so nobody has to agree with anybody, and
// members who see different crowds fetch a block more than once at worst. A request for a block that is not there yet
// waits for it up to [relayWait]. Whoever has nothing else to do takes what is missing from wherever it is, after
// a moment that depends on how fast holders are.
//
// # Many machines
//
// Up to 65 machines on a LAN are all connected to each other. Of more, each keeps connections to the 64 of the highest
// score: the first 8 bytes of the SHA-256 digest of both IDs, in their binary form and the smaller first. Both
// sides of a pair compute the same, so they mostly agree whether to keep each other, and nobody has to
// agree with anybody. The others are strangers. Nobody waits for them: what no neighbour has is "not here". But then
// strangers are dialled one after the other, asked once for all that was missed in the last minute, and left again, unless
// they have some of it: then they stay, for they are likely to have the rest of that closure. A stranger is not visited
// twice in two minutes. Questions are never passed on.
//
// The table is of whole machines on a simulated LAN, where processors take no time, and 2 ms pass from one to the other;
// the last line is of the real policy alone, with dials of 10 ms and the bytes that a visit takes among 200. It says how many
// connections each has (in the mean, and the most), what a path costs that nobody has (questions; bytes there and back,
// encrypted, of one that comes alone), and when the only holder of a path, a stranger, is a neighbour (in the median, and at
// worst) and what all visits until then took.
//
//	hosts  connections  questions  bytes  holder found after  visits
//	   10      9 /  9          9    0.8 kB  at once              none
//	   50     49 / 49         49    4.5 kB  at once              none
//	  100     67 / 77         67    6.4 kB  0.06 s / 0.06 s      0.2 MB
//	  200     68 / 86         68    6.3 kB  0.8 s / 1.5 s        0.7 MB
//	  500     68 / 85         68    6.3 kB  4.8 s / 11.6 s       1.8 MB
//
// At rest a connection costs each side about 30 packets of 66 bytes a minute, on Linux, and multicast DNS a machine about
// 2 kB in twenty minutes, or in four if there are strangers: 0.1 MB a minute with 50 neighbours and 0.13 MB with 64,
// however many machines there are.
// This repeats the table, in some minutes:
//
//	NARBOR_NIGHTLY=1 go test -v -timeout 1h -run 'TestManyMachines|TestFiveHundredMachines' ./integration/hostile ./p2p
//
// # Upstreams
//
// Whoever asks upstreams on behalf of others says so by speaking a protocol on which nothing is said: every stream is
// reset. Its name is "/narbor/upstream/1/" and the first 8 bytes, in base 16, of the SHA-256 of its upstreams' URLs, which
// end with a slash, sorted, with a line feed between two. Those who have the same and are connected elect, each for itself, who of them and itself asks about a
// path, and fetches its NAR: the one of whom SHA-256 of SHA-256 of the hash part, as text, and the peer ID begins with the
// largest number of 8 bytes, the first counting most (rendezvous hashing). What is asked on behalf of somebody is never
// passed on to a third: the answerer asks its own upstreams, or not at all. So nothing goes in circles, and those who see
// different members fetch a NAR more than once at worst. Who asks gives up, and elects anew without the one that was
// elected, or fetches the NAR itself, when that one receives nothing any more, passes nothing or too little on, or is much slower.
//
// # Groups
//
// Hosts may share a secret of at least 16 bytes, and then ask and answer nobody who does not know it. Such a host does
// not speak "/narbor/1" but, with those who have proved to know it, the same under the name "/narbor/member/1". Until
// then it resets streams of that name with the code 0x2002. The proof is the protocol "/narbor/group/1", once for each
// peer as long as it stays connected. Either side opens the stream; then, with every field of 32 bytes but the last,
//
//	opener    nonce
//	answerer  nonce
//	          proof of role 2
//	opener    proof of role 1
//	answerer  1 byte 1: the opener may ask from now on, and may be asked
//
// Whoever finds a proof wrong resets the stream with the code 0x2002. That is no lie, and costs nothing. A proof is
// HMAC-SHA256, whose key is HKDF-SHA256 of the secret, without salt, with the info "narbor group 1", of
//
//	1 byte   role
//	32 bytes nonce of the opener
//	32 bytes nonce of the answerer
//	1 byte   length of the opener's peer ID, in its binary form
//	...      that ID
//	1 byte   length of the answerer's peer ID
//	...      that ID
//
// TLS and Noise vouch for both IDs, so a proof that somebody else has heard or passes on is of no use on another
// connection, and the roles keep it from being sent back. The nonces make each proof good for one time: who has left the
// group, or was given a proof by a member, has nothing to come back with. Proofs are made on a stream of their own, not at
// the head of each: streams are opened by the dozen, and what a peer ID has proved holds for all of its connections. A
// proof lets a stranger try secrets at leisure, so the secret must be random and not a word.
//
// testdata/group.json has examples, made by testdata/group.py.
//
// # Who else is there
//
// Where multicast does not work, neighbours tell of each other, on the protocol "/narbor/peers/1". Whoever opens a
// stream closes its side without a word; the other side answers, and closes it:
//
//	uvarint  number of addresses, at most [maxToldPeers]
//
// and as often
//
//	uvarint  length, at most [maxPeerAddr]
//	...      multiaddr in its binary form: /ip4 or /ip6, /tcp, /p2p
//
// Told are, in any order and with one address each, peers that the teller is connected to, on the link that the asker
// is on, at an address that the teller has seen itself: it has connected to it, or the peer has come from there and
// says that it listens at that port. So nothing goes further than from one neighbour to the next, and nothing to another
// network. In a group, only members tell, and only members of members. Nobody owes an answer; one that asks too often has
// its streams reset. An address is hearsay: it is dialled if it is on-link and its port is at least [minPort].
//
// # Dial-back
//
// A machine finds out whether a firewall keeps connections from it on the protocol "/narbor/dialback/1": a neighbour
// connects to it on request. The asker sends its request and closes its side of the stream:
//
//	uvarint  TCP port that the asker listens at, from [minPort] to 65535
//
// The other side opens a TCP connection to that port, at the address from which the stream's own connection comes and no
// other, from its own address of that connection and a port that its kernel chooses. It sends nothing on it, closes it,
// and answers:
//
//	1 byte   0 declined, 1 reached, 2 refused, 3 timed out after [dialBackTimeout], 4 asked too often
//
// An address that is on none of the answerer's links, such as one that the user has named, is declined. In a group only
// members ask, and only members answer. The asker believes "reached" only if it has accepted a connection from the
// answerer's address meanwhile. The connection is none between neighbours, for no handshake follows.
//
// # Wrong NARs and lies
//
// A NAR is fetched from all its holders at once, block by block, and hashed once, as a whole, as it arrives. No
// manifest is needed for that. Only when the hash is wrong is a holder's manifest compared with the blocks at
// hand, and what differs fetched again from that holder alone. If the NAR is right now, that manifest was true,
// and the senders of other blocks are found; if it is still wrong, everything in it is what this one holder
// vouched for, so this one is found. Each round finds one of them, beyond doubt, or ends well.
//
// A wrong NAR is no proof of a lie: the store of an honest peer may be damaged. Its sender is told by the request above, the
// path is not taken from it for an hour, and it is not struck. A peer with wrong NARs of three paths within an hour is set
// aside: its claims count only beside those of others, for 10 minutes, and four times as long for each further one, up to an
// hour. The same goes, from a minute on, for a peer that does not deliver what it claims, or far too slowly.
//
// A lie is what no honest peer can send: an answer that breaks the wire format, a claim about another path than the one
// asked for, or questions about more paths that are not here than there are packages. The third bans its sender for an
// hour. A signature that does not verify is none: a key of that name may have other bits there.
//
// Nobody vouches for blocks of a NAR that it is still receiving. When the hash is wrong, those are the first to be
// fetched again, from holders. Passing on a wrong block is no lie, but whoever does it for three NARs is not taken
// relayed blocks from for an hour.
package p2p
