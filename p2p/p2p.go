// Package p2p finds the neighbours that run narbor, asks them which paths they have, and fetches NARs from them.
// Everything that it returns has been checked: a [trust.Mapping] from [Node.Lookup], and from [Node.Fetch] an archive
// of which every byte was hashed against such a mapping. Callers get bytes in no other way. Neighbours also get blocks
// of NARs that are still arriving, marked as not verified. A neighbour learns only of paths that the sharing policy
// lets leave this machine (an upstream has signed them, unless the user shares more), and only if it asks for exactly
// that path or has been told of a path that refers to it.
//
// The wire format is the comment of package [narbor/p2p/wire], for peer exchange and dial-back that of
// [narbor/p2p/meet], and for assignments that of [narbor/p2p/proxy].
//
// # Swarms
//
// Machines that receive the same NAR at the same time form a swarm and exchange its blocks. They find each other by
// questions about its path: the answer says that its sender is receiving the NAR, and the question that the asker is
// about to. A member first requests the blocks that are assigned to it, from holders of the whole NAR, and the other
// blocks from the members to which they are assigned. A block is assigned to the member with the highest weight
// (rendezvous hashing), so members do not negotiate; if they see different swarms, a block is at worst fetched more
// than once. A request for a block that is not there yet waits for it up to [narbor/p2p/fetch.PartialWait]. A member
// without other requests to make fetches the missing blocks from any peer that has them, after a delay that depends on
// how fast the holders are.
//
// # Many machines
//
// Up to 65 machines on a LAN are all connected to each other. If there are more, each keeps connections to the 64
// machines with the highest weight: the first 8 bytes of the SHA-256 digest of both IDs, in their binary form and the
// smaller first. Both sides of a pair compute the same weight, so they mostly agree on whether to stay connected,
// without negotiation. The other machines are non-neighbours. No request waits for non-neighbours: a path that no
// neighbour has is "not here". After such a miss, non-neighbours are dialled one after the other, asked once for all
// paths missed in the last minute, and disconnected unless they have one of them. A non-neighbour that has one stays
// connected, because it is likely to have the rest of that closure. A non-neighbour is not visited twice in two
// minutes. Questions are never passed on.
//
// The table was measured with whole machines on a simulated LAN, on which computing takes no time and a message takes 2
// ms. Its last line is of the policy alone, with 10 ms for a dial, and for a visit the bytes that it takes among 200
// machines. The columns are the connections of each machine (mean and maximum); the cost of a path that no neighbour
// has, if it is asked for alone (questions, and encrypted bytes in both directions); the time until the only holder of
// a path, a non-neighbour, is a neighbour (median and maximum); and the bytes of all visits until then.
//
//	hosts  connections  questions  bytes  holder found after  visits
//	   10      9 /  9          9    0.8 kB  at once              none
//	   50     49 / 49         49    4.5 kB  at once              none
//	  100     67 / 77         67    6.4 kB  0.06 s / 0.06 s      0.2 MB
//	  200     68 / 86         68    6.3 kB  0.8 s / 1.5 s        0.7 MB
//	  500     68 / 85         68    6.3 kB  4.8 s / 11.6 s       1.8 MB
//
// At rest a connection costs each side about 30 packets of 66 bytes a minute, on Linux, and multicast DNS a machine
// about 2 kB in twenty minutes, or in four if there are non-neighbours: 0.1 MB a minute with 50 neighbours and 0.13 MB
// with 64, however many machines there are. The table is measured again, in some minutes, by:
//
//	NARBOR_NIGHTLY=1 go test -v -timeout 1h -run 'TestManyMachines|TestFiveHundredMachines' ./integration/hostile ./p2p
//
// # Groups
//
// Hosts may share a secret of at least 16 bytes; they then neither ask nor answer hosts that do not know it. Such a
// host does not speak "/narbor/1", but the same protocol under the name "/narbor/member/1", and only with peers that
// have proved that they know the secret; before the proof it resets streams of that name with the code 0x2002. The
// proof is exchanged on a stream of the protocol "/narbor/group/1", once for each peer while it stays connected. Either
// side opens the stream; then, with every field of 32 bytes but the last,
//
//	opener    nonce
//	answerer  nonce
//	          proof of role 2
//	opener    proof of role 1
//	answerer  1 byte 1: the opener may ask from now on, and may be asked
//
// The side that finds a proof wrong resets the stream with the code 0x2002. A wrong proof does not count as a lie and
// has no other consequence. A proof is HMAC-SHA256, with the HKDF-SHA256 of the secret (without salt, with the info
// "narbor group 1") as its key, of
//
//	1 byte   role
//	32 bytes nonce of the opener
//	32 bytes nonce of the answerer
//	1 byte   length of the opener's peer ID, in its binary form
//	...      that ID
//	1 byte   length of the answerer's peer ID
//	...      that ID
//
// TLS and Noise vouch for both IDs, so a proof that a third party has recorded or relays is of no use on another
// connection, and the roles keep it from being sent back. The nonces make each proof valid once: a host that has left
// the group, or was given a proof by a member, cannot use an old proof to return. Proofs are made on a stream of their
// own, not at the head of each stream: streams are opened by the dozen, and a proof for a peer ID holds for all of its
// connections. A proof allows an attacker to try secrets offline, so the secret must be random and not a word.
//
// peers/testdata/group.json has examples, made by group.py beside it.
//
// # Wrong NARs and lies
//
// A NAR is fetched from all its holders at once, block by block, and hashed once, as a whole, as it arrives. That needs
// no manifest. Only when the hash is wrong is the manifest of one holder compared with the blocks received, and the
// blocks that differ are fetched again from that holder alone. If the NAR is right then, so was the manifest, and the
// senders of the replaced blocks are found. If it is still wrong, this holder has vouched for all of its content, and
// is found itself. So each round ends with a right NAR, or without one holder of wrong bytes.
//
// A wrong NAR is no proof of a lie: the store of an honest peer may be damaged. Its sender is told by the request
// "wrong" of [narbor/p2p/wire], the path is not taken from it for an hour, and it is not struck. A peer with wrong NARs
// of three paths within an hour is set aside: its claims count only beside those of others, and no blocks are taken
// from it, for 10 minutes, and four times as long for each further one, up to an hour. A peer that does not deliver
// what it claims, or far too slowly, is set aside too, from a minute on, but blocks are taken from it if another peer
// has the NAR.
//
// A lie is a message that no honest peer can send: an answer that breaks the wire format, a claim about another path
// than the one asked for, or questions about more missing paths than there are packages. The third lie bans its sender
// for an hour. A signature that does not verify is not a lie: a key of that name may have other bits at the sender.
//
// A peer does not vouch for blocks of a NAR that it is still receiving. When the hash is wrong, those are the first to
// be fetched again, from holders. Passing on a wrong block is not a lie, but a peer that does so for three NARs is not
// asked for relayed blocks for an hour.
package p2p
