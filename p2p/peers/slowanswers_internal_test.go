package peers

import (
	"context"
	"encoding/binary"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
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

func TestSlowAnswersEndInTime(t *testing.T) {
	const patience = time.Second
	s := trusttest.NewSigner(t)
	_, small := s.SignSize(t, "small", 200*store.BlockSize)
	_, huge := s.SignSize(t, "huge", 1<<34)
	blocks := func(m trust.Mapping) []byte {
		return binary.AppendUvarint(nil, uint64(store.NumBlocks(m.NarSize())))
	}
	hp := small.Path().HashPart()
	claim := binary.AppendUvarint(nil, store.MaxInfoLen<<1)
	for name, c := range map[string]struct {
		limit, every time.Duration
		answer       []byte
		ask          func(ctx context.Context, nb *Neighbour) error
	}{
		"a manifest": {manifestTimeout + time.Second, time.Second, blocks(small),
			func(ctx context.Context, nb *Neighbour) error {
				_, err := nb.AskManifest(ctx, small)
				return err
			}},
		"a manifest of a large NAR": {manifestLimit, time.Second, blocks(huge), func(ctx context.Context, nb *Neighbour) error {
			_, err := nb.AskManifest(ctx, huge)
			return err
		}},
		"claims": {AskTimeout, AskTimeout / 10, claim, func(ctx context.Context, nb *Neighbour) error {
			_, err := nb.AskAlone(ctx, []store.HashPart{hp})
			return err
		}},
		"what an upstream says": {patience, patience / 10, binary.AppendUvarint([]byte{byte(wire.VerdictYes)}, store.MaxInfoLen),
			func(ctx context.Context, nb *Neighbour) error {
				_, _, err := nb.AskInfo(ctx, hp, patience)
				return err
			}},
		"how far a download is": {FetchPatience, 2 * FetchPatience, nil, func(ctx context.Context, nb *Neighbour) error {
			_, err := nb.AskFetch(ctx, hp, small.NarHash())
			return err
		}},
		"a report of a wrong NAR": {AskTimeout, time.Hour, nil, func(ctx context.Context, nb *Neighbour) error {
			return nb.TellWrong(ctx, small)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nb := newTestNeighbour(&slowStream{answer: c.answer, every: c.every})
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
	nb := newTestNeighbour(nil)
	for since, want := range map[time.Duration]bool{0: false, lateAfter / 2: false, 2 * lateAfter: true} {
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
