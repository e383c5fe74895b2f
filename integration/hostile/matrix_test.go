package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/store"
)

// The fault matrix: what a neighbour can do wrong, while machines discover each other, while one asks who has what, while
// a NAR is on its way, and while Nix waits for it. Each fault is committed at five places of the sequence that its phase
// consists of. Every case is a LAN of six machines in memory, with libp2p as it is, in time that is simulated, and its
// seed is its number: names, keys, NARs and the order of things are the same in each run, down to what the Go scheduler
// decides. After it
//
//   - what Nix was given is right, or 404, in time; and not 404 if somebody honest has it
//   - every goroutine has ended (or else the bubble says that it is deadlocked), libp2p counts nothing as held, the spool
//     has all of its space back, and the memory of the phase is free
//   - the liar has been struck if it has lied, and only then; if it has sent a wrong NAR, that is recorded; and no honest
//     machine is struck or found to have sent one

// positions is at how many places of a sequence each fault is committed.
const positions = 5

// honestFaults are those that are no lies: a machine may be slow, switched off, or have lost what it had. It loses
// nothing but its part in what is going on.
var honestFaults = []string{
	"gone-block", "trickle", "slow-block", "silent-block", "reset-head", "reset-block", "reset-asked", "vanish", "later",
	"forged-claim", "altered-claim", "mixed-claim", "forged-further", // a key of the same name may have other bits there
	"unsigned-claim", "foreign-claim", "trickled-claim", "silent-claim", "reset-claim", "half-claim", "no-claim", "late-claim", "vanish-claim",
	"two-claims", // the second promises more than comes, and so looks like silence
}

// wrongNARs are the faults that a machine with a damaged store, or bad memory, commits, too.
var wrongNARs = []string{
	"wrong-block", "flipped-block", "swapped-block",
	"bogus-manifest", "overlapping-manifest", "contradictory-manifest", "false-witness", "silent-manifest", "reset-manifest", "trickled-manifest",
}

// offenceOf is what is held against a machine that commits a fault.
func offenceOf(f fault) offence {
	switch {
	case slices.Contains(honestFaults, f.name):
		return noOffence
	case slices.Contains(wrongNARs, f.name):
		return aWrongNAR
	}
	return aLie
}

// A matrixCase runs in a bubble of its own.
type matrixCase struct {
	name string
	run  func(t *testing.T, seed uint64)
}

// maxKept is how much memory the cases of a phase may leave behind, all together.
const maxKept = 24 << 20

func runCases(t *testing.T, cases []matrixCase) {
	if len(cases) < 24*positions {
		t.Errorf("%d cases, want %d", len(cases), 24*positions)
	}
	before := heap()
	t.Run("cases", func(t *testing.T) { // returns when all have ended
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { c.run(t, uint64(i)) })
			})
		}
	})
	if after := heap(); after > before+maxKept {
		t.Errorf("%d cases have left %d bytes of memory behind, want %d at most", len(cases), after-before, maxKept)
	}
	t.Logf("%d cases", len(cases))
}

// heap returns how many bytes are in use.
func heap() uint64 {
	for range 3 { // pools are emptied in two steps
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// transferFaults are those in the bytes of a NAR.
func transferFaults() []fault {
	return slices.Concat(blockFaults(), bombs(), manifestFaults(), []fault{
		{name: "empty-block", block: rawBlock(func([]byte) []byte { return nil })},
		{name: "later", block: func(_ context.Context, s network.Stream, _ archive, _ int, _ []byte) error {
			_, err := s.Write([]byte{statusLater})
			return err
		}},
		{name: "vanish", block: func(_ context.Context, s network.Stream, _ archive, _ int, b []byte) error {
			s.Write(blockAnswer(statusRaw, b)[:100])
			s.Conn().Close()
			return errReset
		}},
	})
}

// transferCases: the liar is the first to deliver, and commits the fault in the first, second … last block of five.
func transferCases() (cases []matrixCase) {
	for _, f := range transferFaults() {
		for at := range positions {
			cases = append(cases, matrixCase{fmt.Sprintf("transfer/%s/%d", f.name, at), func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, positions)
				fired := w.commitInBlock(f, at)
				w.meet(w.rng.IntN(simHonest + 1))
				for _, p := range w.paths[:2] { // the second shows what followed the last block of the first
					w.wantNarinfo(p, false)
					time.Sleep(20 * time.Millisecond) // until everybody has answered
					w.sleepHonest()
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

// sleepHonest holds up the honest until the liar has had its chance.
func (w *simWorld) sleepHonest() {
	for _, n := range w.honest {
		n.machine.sleep()
	}
	time.AfterFunc(4*time.Second, w.wakeHonest) // sooner than they are given up for gone
}

func (w *simWorld) wakeHonest() {
	for _, n := range w.honest {
		n.machine.wake()
	}
}

// commitInBlock makes the liar commit a fault in one block. If it is one of manifests, that block is wrong, the liar
// sends two more and then none, so that others have a part in the NAR, and it is most of what alice can ask about it.
func (w *simWorld) commitInBlock(f fault, at int) (fired *atomic.Int64) {
	fired = new(atomic.Int64)
	block, manifest := f.block, f.manifest
	inManifest := slices.ContainsFunc(manifestFaults(), func(m fault) bool { return m.name == f.name })
	others := atomic.Int64{}
	f.block = func(ctx context.Context, s network.Stream, a archive, i int, b []byte) error {
		answer := blockAnswer(statusRaw, b)
		switch {
		case i == at:
			time.AfterFunc(20*time.Millisecond, w.wakeHonest) // when it has come, if it comes
			if !inManifest {
				fired.Add(1)
				return block(ctx, s, a, i, b)
			}
			answer = blockAnswer(statusRaw, flipped(b))
		case inManifest && others.Add(1) > 2:
			answer = []byte{statusLater}
		}
		_, err := s.Write(answer)
		return err
	}
	f.manifest = func(ctx context.Context, s network.Stream, a archive, d []store.Hash) error {
		if inManifest {
			fired.Add(1)
		}
		if manifest != nil {
			return manifest(ctx, s, a, d)
		}
		_, err := s.Write(manifestAnswer(d))
		return err
	}
	w.commit(f)
	return fired
}

func TestTransfer(t *testing.T) { runCases(t, transferCases()) }
