package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/store"
)

// A fault is one way to misbehave. Each hook that is not nil takes the place of an honest answer; an error ends the
// stream with a reset.
type fault struct {
	name, says string

	connect  func(m *machine)                                 // before the first connection
	stream   func(m *machine, f fault, s network.Stream) bool // at the begin of a stream; true ends it
	claim    func(context.Context, network.Stream, *machine, store.HashPart, store.Info) error
	always   bool // call claim also for paths that are not here
	block    func(ctx context.Context, s network.Stream, a archive, i int, b []byte) error
	manifest func(ctx context.Context, s network.Stream, a archive, digests []store.Hash) error
	attack   func(ctx context.Context, m *machine, f fault) error             // runs without a request
	proxy    func(ctx context.Context, m *machine, r request) ([]byte, error) // answers requests for blocks of a download
}

// errReset ends a stream with a reset.
var errReset = errors.New("reset")

// allFaults returns every fault that --fault accepts.
func allFaults() []fault {
	return slices.Concat(blockFaults(), bombs(), manifestFaults(), claimFaults(), streamFaults(), proxyFaults(), attacks())
}

func blockFaults() []fault {
	return []fault{
		{name: "wrong-block", says: "every byte of every block is inverted", block: rawBlock(inverted)},
		{name: "flipped-block", says: "one bit of every block is wrong", block: rawBlock(flipped)},
		{name: "swapped-block", says: "the block after the one that was asked for, as far as there is one", block: swapped},
		{name: "truncated-block", says: "a block that says it is one byte shorter, and is",
			block: rawBlock(func(b []byte) []byte { return b[:len(b)-1] })},
		{name: "extended-block", says: "a block that says it is one byte longer, and is",
			block: rawBlock(func(b []byte) []byte { return append(b, 0) })},
		{name: "repeated-block", says: "every block comes twice", block: repeated},
		{name: "bad-status", says: "a block with a status that does not exist",
			block: func(_ context.Context, s network.Stream, _ archive, _ int, b []byte) error {
				_, err := s.Write(blockAnswer(99, b))
				return err
			}},
		{name: "gone-block", says: "\"not here\" for every block of what it claims to have",
			block: func(_ context.Context, s network.Stream, _ archive, _ int, _ []byte) error {
				_, err := s.Write([]byte{statusGone})
				return err
			}},
		{name: "endless-block", says: "after the head of a block bytes without end", block: endlessBlock},
		{name: "trickle", says: "blocks at one byte a second",
			block: func(ctx context.Context, s network.Stream, _ archive, _ int, b []byte) error {
				return trickle(ctx, s, blockAnswer(statusRaw, b))
			}},
		{name: "slow-block", says: "true blocks, each after 4.8 seconds",
			block: func(ctx context.Context, s network.Stream, _ archive, _ int, b []byte) error {
				if !sleep(ctx, 4800*time.Millisecond) {
					return errReset
				}
				_, err := s.Write(blockAnswer(statusRaw, b))
				return err
			}},
		{name: "silent-block", says: "no answer to a request for a block, and nothing after it",
			block: func(ctx context.Context, s network.Stream, _ archive, _ int, _ []byte) error {
				return silence(ctx, s)
			}},
		{name: "reset-head", says: "a reset after the head of a block", block: cut(func(b []byte) int { return len(b) - len(b)*15/16 })},
		{name: "reset-block", says: "a reset in the middle of a block", block: cut(func(b []byte) int { return len(b) / 2 })},
		{name: "reset-asked", says: "a reset when a block is asked for", block: cut(func([]byte) int { return 0 })},
	}
}

// manifestFaults send every third block wrong, because narbor asks for a manifest only after a wrong NAR.
func manifestFaults() []fault {
	return []fault{
		{name: "bogus-manifest", says: "digests by chance; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(_ context.Context, s network.Stream, _ archive, d []store.Hash) error {
				for i := range d {
					rand.Read(d[i][:])
				}
				_, err := s.Write(manifestAnswer(d))
				return err
			}},
		{name: "endless-manifest", says: "a manifest of 2^62 blocks that begins; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(ctx context.Context, s network.Stream, _ archive, _ []store.Hash) error {
				if _, err := s.Write(binary.AppendUvarint(nil, 1<<62)); err != nil {
					return err
				}
				return noise(ctx, s)
			}},
		{name: "overlapping-manifest", says: "every block is said to be the first; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(_ context.Context, s network.Stream, _ archive, d []store.Hash) error {
				for i := range d {
					d[i] = d[0]
				}
				_, err := s.Write(manifestAnswer(d))
				return err
			}},
		{name: "short-manifest", says: "a manifest that lacks the last block; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(_ context.Context, s network.Stream, _ archive, d []store.Hash) error {
				_, err := s.Write(manifestAnswer(d[:len(d)-1]))
				return err
			}},
		{name: "contradictory-manifest", says: "the truth, while a third of the blocks is wrong", block: thirdWrong},
		{name: "false-witness", says: "a manifest of its own wrong blocks",
			block: rawBlock(inverted), manifest: func(_ context.Context, s network.Stream, a archive, d []store.Hash) error {
				for i := range d {
					b, err := a.read(i)
					if err != nil {
						return err
					}
					d[i] = sha256.Sum256(inverted(b))
				}
				_, err := s.Write(manifestAnswer(d))
				return err
			}},
		{name: "silent-manifest", says: "no answer when a manifest is asked for; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(ctx context.Context, s network.Stream, _ archive, _ []store.Hash) error {
				return silence(ctx, s)
			}},
		{name: "trickled-manifest", says: "a manifest at one byte a second; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(ctx context.Context, s network.Stream, _ archive, d []store.Hash) error {
				return trickle(ctx, s, manifestAnswer(d))
			}},
		{name: "reset-manifest", says: "a reset in the middle of a manifest; a third of the blocks is wrong",
			block: thirdWrong, manifest: func(_ context.Context, s network.Stream, _ archive, d []store.Hash) error {
				m := manifestAnswer(d)
				s.Write(m[:len(m)/2])
				return errReset
			}},
	}
}

func streamFaults() []fault {
	return []fault{
		{name: "reset-connect", says: "every connection is closed as soon as it is made", connect: func(m *machine) {
			m.host.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) { go c.Close() }})
		}},
		{name: "reset-stream", says: "a reset of every stream at once", stream: func(m *machine, f fault, _ network.Stream) bool {
			m.offence(f, "a stream")
			return true
		}},
		{name: "silent", says: "streams are accepted, and nothing is answered", stream: func(m *machine, f fault, s network.Stream) bool {
			m.offence(f, "a stream")
			io.Copy(io.Discard, s)
			return true
		}},
		{name: "endless-stream", says: "noise without end on every stream, whatever is asked",
			stream: func(m *machine, f fault, s network.Stream) bool {
				m.offence(f, "a stream")
				noise(context.Background(), s) // ends with the stream, which serve resets
				return true
			}},
	}
}

func rawBlock(change func([]byte) []byte) func(context.Context, network.Stream, archive, int, []byte) error {
	return func(_ context.Context, s network.Stream, _ archive, _ int, b []byte) error {
		_, err := s.Write(blockAnswer(statusRaw, change(b)))
		return err
	}
}

func inverted(b []byte) []byte {
	for i := range b {
		b[i] = ^b[i]
	}
	return b
}

func flipped(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// swapped sends the block after this one, cut or filled up to the right length. If the NAR has only one block, swapped
// rotates the block's bytes by one.
func swapped(_ context.Context, s network.Stream, a archive, i int, b []byte) error {
	blocks := store.NumBlocks(a.Size())
	other, err := a.read((i + 1) % blocks)
	if err != nil {
		return err
	}
	if blocks == 1 {
		other = slices.Concat(b[1:], b[:1])
	}
	copy(b, other)
	_, err = s.Write(blockAnswer(statusRaw, b))
	return err
}

func repeated(_ context.Context, s network.Stream, _ archive, _ int, b []byte) error {
	_, err := s.Write(bytes.Repeat(blockAnswer(statusRaw, b), 2))
	return err
}

// thirdWrong corrupts blocks 0, 3, 6 and so on.
func thirdWrong(_ context.Context, s network.Stream, _ archive, i int, b []byte) error {
	if i%3 == 0 {
		b = flipped(b)
	}
	_, err := s.Write(blockAnswer(statusRaw, b))
	return err
}

func endlessBlock(ctx context.Context, s network.Stream, _ archive, _ int, b []byte) error {
	if _, err := s.Write(blockAnswer(statusRaw, b)); err != nil {
		return err
	}
	return noise(ctx, s)
}

func cut(at func(b []byte) int) func(context.Context, network.Stream, archive, int, []byte) error {
	return func(_ context.Context, s network.Stream, _ archive, _ int, b []byte) error {
		out := blockAnswer(statusRaw, b)
		s.Write(out[:at(out)])
		return errReset
	}
}

// noise writes until a write fails or ctx ends.
func noise(ctx context.Context, s network.Stream) error {
	b := []byte(strings.Repeat("\xff\x01noise", 8<<10))
	for ctx.Err() == nil {
		if _, err := s.Write(b); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func silence(ctx context.Context, s network.Stream) error {
	io.Copy(io.Discard, s)
	return errReset
}

func trickle(ctx context.Context, s network.Stream, b []byte) error {
	for i := range b {
		if _, err := s.Write(b[i : i+1]); err != nil || !sleep(ctx, time.Second) {
			return errReset
		}
	}
	return nil
}

// read returns a block of an archive.
func (a archive) read(i int) ([]byte, error) {
	if i < 0 || i >= store.NumBlocks(a.Size()) {
		return nil, errReset
	}
	b := make([]byte, store.BlockLen(a.Size(), i), store.BlockSize+1)
	_, err := a.ReadAt(b, int64(i)*store.BlockSize)
	return b, err
}

// digests returns the digests of all blocks of an archive.
func (a archive) digests() ([]store.Hash, error) {
	var all []store.Hash
	for i := range store.NumBlocks(a.Size()) {
		b, err := a.read(i)
		if err != nil {
			return nil, err
		}
		all = append(all, sha256.Sum256(b))
	}
	return all, nil
}
