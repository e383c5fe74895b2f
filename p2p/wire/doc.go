// Package wire reads and writes the messages that neighbours exchange. Its readers take untrusted bytes: each has a
// limit on what it allocates, and every violation of the grammar is [ErrWire]. They may be called concurrently, each
// with a reader of its own.
//
// # Wire format
//
// Neighbours speak the libp2p protocol "/narbor/1" over TCP, secured by TLS 1.3 or Noise and multiplexed by yamux. A
// virtual machine and its host also speak it over vsock(7), where the host listens at port 6273. The side that opens a
// stream sends any number of requests on it without waiting; the other side answers them in order. Streams are kept
// open between requests. Numbers are unsigned varints (unsigned LEB128, shortest form, at most 9 bytes). A violation of
// this grammar resets the stream.
//
// A request is one frame:
//
//	uvarint  length of the rest, 1 to [maxRequestLen]
//	1 byte   kind: 1 claims, 2 manifest, 3 block, 4 have, 5 upstream, 6 fetch, 7 wrong, 8 offer,
//	         9 file
//	...      by kind
//
// Claims asks whether the answerer has these store paths:
//
//	20 bytes hash part, as decoded from Nix's base 32; 1 to [MaxClaims] times
//
// The answer holds for each hash part, in the order asked:
//
//	uvarint  twice the length of the claim, which is at most [store.MaxInfoLen], and 1 more if its sender is still
//	         receiving the NAR; 0 is "not here", whatever the reason
//	...      the claim: narinfo text with StorePath, NarHash, NarSize, References and Sig lines, and nothing else
//
// Then come claims that were not asked for: about references of the paths in the claims before them, because Nix asks
// about those next. They are optional, and the receiver may discard them. An answer has at most [MaxFurther] of them,
// with at most [MaxFurtherLen] bytes of text:
//
//	uvarint  length of the claim; 0 ends the answer
//	20 bytes hash part
//	...      the claim, as above
//
// Block asks for one block of a NAR. Blocks are numbered from 0 and hold [store.BlockSize] bytes; the last one holds
// the rest. The hash part tells the holder where to look; the CID states which content the asker accepts:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR: CIDv1, raw, sha2-256, that is 01 55 12 20 and the 32 bytes of its NarHash
//	uvarint  number of the block
//
// The answer:
//
//	1 byte   0 "not here", which ends the answer; 1 "as it is"; 2 in S2's block format, which extends Snappy's; 3 as
//	         one zstd frame (RFC 8878) with a window of at most [store.BlockSize]; 4 "not here yet", which ends the
//	         answer; 5, 6 and 7 as 1, 2 and 3, of a NAR that is still being received and has not been verified
//	uvarint  length of what follows: for 1 the block's, which follows from NarSize; for 2 and 3 less than that
//	...      the block; what it unpacks to has the block's length
//
// The holder chooses for each block. It compresses the block if it estimates that the link is slower than compression.
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
// Have asks which blocks of a NAR the answerer has while it is still receiving that NAR:
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
// Fetch asks the answerer to fetch a NAR from its upstreams, and is repeated to ask about progress. The blocks are then
// requested as from any peer that is receiving the NAR:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR
//
// The answer:
//
//	1 byte   0 "no", 2 "under way", 3 "here"
//	uvarint  for 2: how many bytes, of any NARs and before unpacking, have come from the answerer's upstreams since it
//	         was started, modulo [store.MaxNarSize]
//	uvarint  for 2: the average number of unpacked bytes a second that one download from those upstreams yields; 0 if
//	         that is not known
//
// Wrong tells the answerer that its NAR of a path does not have the expected hash. The answerer may check that and then
// stop offering the path:
//
//	20 bytes hash part
//	36 bytes CID of the whole NAR, as it should be
//
// The answer, whatever becomes of it:
//
//	1 byte   0
//
// Offer sends a signature for a path that the answerer does not share. If its NAR of the path is the signed one, it may
// share the path from then on:
//
//	...      the claim, as in the answer to claims, of at most [maxOfferLen] bytes, with 1 to [maxOfferSigs] Sig lines
//
// The answer is that to a question about the path from now on:
//
//	1 byte   0 "not here", whatever the reason; 1 "here"
//
// File asks for a store path that is nothing but a file with these contents, whatever its name:
//
//	...      the content address of the file as Nix writes it: "fixed:", one of md5, sha1, sha256 and sha512, ":", and the
//	         hash of the contents in Nix's base 32
//
// The answer:
//
//	uvarint  twice the length of the claim, which is at most [store.MaxInfoLen]; 0 is "not here", whatever the reason
//	...      the claim: narinfo text with StorePath, NarHash, NarSize and CA lines, and nothing else; CA is the address that was
//	         asked for
//
// A holder that can no longer read a NAR in the middle of an answer resets the stream.
package wire
