package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/store"
)

// A claimHook is called in place of a claim's honest answer.
type claimHook func(ctx context.Context, s network.Stream, m *machine, hp store.HashPart, info store.Info) error

func writes(of func(info store.Info) []byte) claimHook {
	return func(_ context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
		_, err := s.Write(of(info))
		return err
	}
}

// further answers one question truthfully and appends n pushed claims.
func further(n int, text func(i int) string) claimHook {
	return writes(func(info store.Info) []byte {
		out := claimAnswer(info.String())
		for i := range n {
			hp := [20]byte{byte(i), byte(i >> 8), 1}
			t := text(i)
			out = append(append(append(out, binary.AppendUvarint(nil, uint64(len(t)))...), hp[:]...), t...)
		}
		return out
	})
}

// askFaults returns the faults in answers to requests for claims.
func askFaults() []fault {
	hooks := []fault{
		{name: "foreign-claim", claim: writes(func(info store.Info) []byte { // of a key that is not trusted here
			info.Signatures = []string{"elsewhere-1:" + strings.Split(info.Signatures[0], ":")[1]}
			info.NarSize++
			return claimAnswer(info.String())
		})},
		{name: "half-claim", claim: func(_ context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
			b := claimAnswer(info.String())
			s.Write(b[:len(b)/2])
			s.CloseWrite()
			return errReset
		}},
		{name: "no-claim", claim: writes(func(store.Info) []byte { return claimAnswer("") })},
		{name: "late-claim", claim: func(ctx context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
			sleep(ctx, 300*time.Millisecond)
			_, err := s.Write(claimAnswer(info.String()))
			return err
		}},
		{name: "vanish-claim", claim: func(_ context.Context, s network.Stream, m *machine, _ store.HashPart, _ store.Info) error {
			s.Conn().Close()
			return errReset
		}},
		{name: "empty-text", claim: writes(func(store.Info) []byte { return []byte{1} })}, // "nothing is being received"
		{name: "long-number", claim: writes(func(store.Info) []byte { return []byte{0x82, 0x80, 0} })},
		{name: "another-store", claim: writes(func(info store.Info) []byte {
			return claimAnswer(strings.ReplaceAll(info.String(), store.Dir, "/gnu/store"))
		})},
		{name: "two-claims", claim: writes(func(info store.Info) []byte { return bytes.Repeat(claimAnswer(info.String()), 2) })},
		{name: "many-further", claim: further(65, func(int) string { return "x" })},
		{name: "fat-further", claim: further(2, func(int) string { return strings.Repeat("x", 20<<10) })},
		{name: "endless-further", claim: func(ctx context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
			s.Write(append(claimAnswer(info.String()), bytes.Repeat([]byte{0xff}, 20)...))
			return noise(ctx, s)
		}},
		{name: "endless-answer", claim: func(ctx context.Context, s network.Stream, _ *machine, _ store.HashPart, _ store.Info) error {
			return noise(ctx, s)
		}},
		{name: "forged-further", claim: func(ctx context.Context, s network.Stream, m *machine, hp store.HashPart, info store.Info) error {
			pushed := m.unasked(ctx, hp, func(next store.Info) store.Info { return forged(ctx, m, next) })
			_, err := s.Write(append(claimAnswer(info.String()), pushed...))
			return err
		}},
		{name: "misplaced-further",
			claim: func(ctx context.Context, s network.Stream, m *machine, hp store.HashPart, info store.Info) error {
				_, err := s.Write(append(claimAnswer(info.String()), m.unasked(ctx, hp, func(store.Info) store.Info { return info })...))
				return err
			}},
	}
	// The fault false-hash-part is left out: here it would do the same as misplaced-claim.
	others := slices.DeleteFunc(claimFaults(), func(f fault) bool { return f.name == "false-hash-part" })
	return append(others, hooks...)
}

// unasked returns a pushed claim about the path after the requested one, altered by change.
func (m *machine) unasked(ctx context.Context, hp store.HashPart, change func(store.Info) store.Info) []byte {
	paths := m.paths(ctx)
	i := slices.IndexFunc(paths, func(p store.Path) bool { return p.HashPart() == hp })
	next := paths[(i+1)%len(paths)].HashPart()
	info, err := m.nix.Info(ctx, next)
	if err != nil {
		return nil
	}
	raw, text := next.Bytes(), change(info).String()
	return append(append(binary.AppendUvarint(nil, uint64(len(text))), raw[:]...), text...)
}

// askCases returns cases in which Nix asks about five paths in turn. The liar answers before the honest peers and
// commits the fault in its answer about one of the five paths, a different one in each case.
func askCases() (cases []matrixCase) {
	for _, f := range askFaults() {
		for at := range positions {
			cases = append(cases, matrixCase{fmt.Sprintf("ask/%s/%d", f.name, at), func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, 1)
				fired := w.commitInClaim(f, at)
				w.meet(w.rng.IntN(simHonest + 1))
				for range 2 { // twice: an answer about one path may hold a claim about the next or the first one
					for _, p := range w.paths {
						w.wantNarinfo(p, false)
						time.Sleep(20 * time.Millisecond)
					}
					w.serve()
				}
				for _, p := range w.paths {
					w.wantNAR(p, 0, false)
				}
				if fired.Load() == 0 {
					t.Error("the fault was not committed")
				}
				w.end(offenceOf(f))
			}})
		}
	}
	return cases
}

// commitInClaim makes the liar commit a fault in its answers about one path.
func (w *simWorld) commitInClaim(f fault, at int) (fired *atomic.Int64) {
	fired = new(atomic.Int64)
	claim := f.claim
	f.claim = func(ctx context.Context, s network.Stream, m *machine, hp store.HashPart, info store.Info) error {
		if hp == w.paths[at].info.Path.HashPart() {
			fired.Add(1)
			return claim(ctx, s, m, hp, info)
		}
		_, err := s.Write(claimAnswer(info.String()))
		return err
	}
	w.commit(f)
	return fired
}

func TestAsk(t *testing.T) { runCases(t, askCases()) }
