package p2p

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// A slowStream has an answer without end, of which a byte comes now and then.
type slowStream struct {
	network.Stream
	answer   []byte // then zeros
	every    time.Duration
	deadline time.Time
	reset    atomic.Bool
}

func (s *slowStream) Read(p []byte) (int, error) {
	wait := s.every
	if !s.deadline.IsZero() {
		wait = min(wait, time.Until(s.deadline))
	}
	time.Sleep(wait)
	if s.reset.Load() {
		return 0, network.ErrReset
	}
	if !s.deadline.IsZero() && !time.Now().Before(s.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	if p[0] = 0; len(s.answer) > 0 {
		p[0], s.answer = s.answer[0], s.answer[1:]
	}
	return 1, nil
}

func (s *slowStream) Write(p []byte) (int, error)        { return len(p), nil }
func (s *slowStream) SetWriteDeadline(_ time.Time) error { return nil }

func (s *slowStream) SetReadDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

func (s *slowStream) Reset() error {
	s.reset.Store(true)
	return nil
}

// A slowHost has one stream to all peers.
type slowHost struct {
	host.Host
	stream *slowStream
}

func (h slowHost) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return h.stream, nil
}

// large makes a mapping of a NAR that is not there.
func (s signer) large(t *testing.T, name string, size int64) trust.Mapping {
	t.Helper()
	info, _ := s.sign(t, name, []byte(name))
	info.NarSize = size
	sig, err := s.secret.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;", info.Path, info.NarHash, info.NarSize))
	if err != nil {
		t.Fatal(err)
	}
	info.Signatures = []string{sig.String()}
	m, err := s.keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSlowAnswersEndInTime(t *testing.T) {
	s := newSigner(t)
	small, huge := s.large(t, "small", 200*store.BlockSize), s.large(t, "huge", 1<<34)
	blocks := func(m trust.Mapping) []byte {
		return binary.AppendUvarint(nil, uint64(store.NumBlocks(m.NarSize())))
	}
	hp := small.Path().HashPart()
	claim := binary.AppendUvarint(nil, store.MaxInfoLen<<1)
	for name, c := range map[string]struct {
		limit, every time.Duration
		answer       []byte
		ask          func(ctx context.Context, nb *peers.Neighbour) error
	}{
		"a manifest": {peers.ManifestTimeout + time.Second, time.Second, blocks(small),
			func(ctx context.Context, nb *peers.Neighbour) error {
				_, err := nb.AskManifest(ctx, small)
				return err
			}},
		"a manifest of a large NAR": {peers.ManifestLimit, time.Second, blocks(huge), func(ctx context.Context, nb *peers.Neighbour) error {
			_, err := nb.AskManifest(ctx, huge)
			return err
		}},
		"claims": {peers.AskTimeout, peers.AskTimeout / 10, claim, func(ctx context.Context, nb *peers.Neighbour) error {
			_, err := nb.AskAlone(ctx, []store.HashPart{hp})
			return err
		}},
		"what an upstream says": {infoPatience, infoPatience / 10, binary.AppendUvarint([]byte{byte(wire.VerdictYes)}, store.MaxInfoLen),
			func(ctx context.Context, nb *peers.Neighbour) error {
				_, _, err := nb.AskInfo(ctx, hp, infoPatience)
				return err
			}},
		"how far a download is": {peers.FetchPatience, 2 * peers.FetchPatience, nil, func(ctx context.Context, nb *peers.Neighbour) error {
			_, _, _, err := nb.AskFetch(ctx, hp, small.NarHash())
			return err
		}},
		"a report of a wrong NAR": {peers.AskTimeout, time.Hour, nil, func(ctx context.Context, nb *peers.Neighbour) error {
			return nb.TellWrong(ctx, small)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nb := &peers.Neighbour{Host: slowHost{stream: &slowStream{answer: c.answer, every: c.every}},
					Done: make(chan struct{}), Helping: make(chan struct{}, 1)}
				start := time.Now()
				if err := c.ask(t.Context(), nb); err == nil {
					t.Error("an answer that has no end is taken for one")
				}
				if took := time.Since(start); took > c.limit {
					t.Errorf("it is waited for %v, want at most %v", took, c.limit)
				}
			})
		})
	}
}

func TestShortStallMakesNoNeighbourLate(t *testing.T) {
	nb := new(peers.Neighbour)
	for since, want := range map[time.Duration]bool{0: false, peers.LateAfter / 2: false, 2 * peers.LateAfter: true} {
		nb.Late.Store(time.Now().Add(-since).UnixNano())
		if got := nb.IsLate(); got != want {
			t.Errorf("silent for %v: late %v, want %v", since, got, want)
		}
	}
	nb.Late.Store(0)
	if nb.IsLate() {
		t.Error("late without having been silent")
	}
}
