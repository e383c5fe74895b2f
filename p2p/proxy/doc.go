// Package proxy makes one machine of a network ask the upstreams, and download from them, for all machines that have
// the same upstreams. A [Proxy] asks the upstreams of this machine for neighbours and downloads NARs for them, within a
// budget; and it finds the neighbour that is assigned to do so for this machine.
//
// A machine that asks its upstreams for others announces that with a protocol that carries no data: every stream is
// reset. Its name is "/narbor/upstream/1/" and the first 8 bytes, in base 16, of the SHA-256 of its upstreams' URLs,
// which end with a slash, sorted, with a line feed between two. Of the connected machines that have the same
// upstreams, each assigns a path to one, itself included, which asks about it and fetches its NAR. They need no
// messages for that: the assignee is the machine with the highest weight (rendezvous hashing). Its weight is the first
// 8 bytes, as a big-endian number, of SHA-256(SHA-256(hash part) || peer ID), in which the hash part is text. A
// question asked for another peer is never passed on to a third: the answerer asks its own upstreams or declines. So
// requests cannot loop, and if machines see different members, a NAR is at worst fetched more than once. If the
// assignee no longer receives data, passes on nothing or too little, or is much slower, the asker gives up on it and
// assigns the NAR again without it, or fetches the NAR itself.
package proxy
