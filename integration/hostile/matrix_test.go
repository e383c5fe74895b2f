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
	"narbor/store/storetest"
)

// The fault matrix tests each fault of a peer in four phases: discovery, lookup, transfer, and delivery to Nix. Each
// fault is committed at five positions of its phase's sequence. A case is a LAN of six machines in memory, with real
// libp2p and simulated time. The case's number is its seed: names, keys, NARs and the order of events are the same in
// each run, except for the decisions of the Go scheduler. After each case
//
//   - Nix has got the right bytes or 404 in time, and not 404 if an honest peer has the path
//   - every goroutine has ended (otherwise synctest reports a deadlock), libp2p holds no resources, all of the spool's
//     space is free again, and so is the memory of the phase
//   - the liar has a strike if its fault is a lie, and only then; a wrong NAR is recorded for its sender; and no honest
//     machine has a strike or a wrong NAR

// positions is the number of positions at which each fault is committed. Outside of the check it is at one of them, which
// differs from fault to fault.
const positions = 5

// honestFaults are the faults that are no lies: a machine may be slow or switched off, or may have lost a path. The
// only consequence is that others take over its part of the transfer.
var honestFaults = []string{
	"gone-block", "trickle", "slow-block", "silent-block", "reset-head", "reset-block", "reset-asked", "vanish", "later",
	"forged-claim", "altered-claim", "mixed-claim", "forged-further", // another machine's key of the same name may differ
	"unsigned-claim", "foreign-claim", "trickled-claim", "silent-claim", "reset-claim",
	"half-claim", "no-claim", "late-claim", "vanish-claim",
	"two-claims", // the second claim is read as the start of a longer answer, which looks unfinished
}

// wrongNARs are the faults that a machine with a damaged store or bad memory also commits.
var wrongNARs = []string{
	"wrong-block", "flipped-block", "swapped-block",
	"bogus-manifest", "overlapping-manifest", "contradictory-manifest", "false-witness",
	"silent-manifest", "reset-manifest", "trickled-manifest",
}

// offenceOf returns the offence that narbor records for a fault.
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

// maxKept bounds the heap growth, in bytes, of all cases of a phase together.
const maxKept = 24 << 20

func runCases(t *testing.T, cases []matrixCase) {
	if len(cases) < 24*positions {
		t.Errorf("%d cases, want %d", len(cases), 24*positions)
	}
	before, ran := heap(), 0
	t.Run("cases", func(t *testing.T) { // returns when all have ended
		for i, c := range cases {
			if !storetest.InCheck() && (i/positions+i)%positions != 0 {
				continue
			}
			ran++
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { c.run(t, uint64(i)) })
			})
		}
	})
	if after := heap(); after > before+maxKept {
		t.Errorf("%d cases have left %d bytes of memory behind, want %d at most", ran, after-before, maxKept)
	}
	t.Logf("%d of %d cases", ran, len(cases))
}

// heap returns the number of bytes in use after garbage collection.
func heap() uint64 {
	for range 3 { // pools are emptied in two steps
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// transferFaults returns the faults in the transfer of a NAR.
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

// transferCases returns cases in which the liar delivers first and commits the fault in one of five blocks.
func transferCases() (cases []matrixCase) {
	for _, f := range transferFaults() {
		for at := range positions {
			cases = append(cases, matrixCase{fmt.Sprintf("transfer/%s/%d", f.name, at), func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, positions)
				fired := w.commitInBlock(f, at)
				w.meet(w.rng.IntN(simHonest + 1))
				for _, p := range w.paths[:2] { // the second reveals bytes that followed the last block of the first
					w.wantNarinfo(p, false)
					time.Sleep(20 * time.Millisecond) // until all peers have answered
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

// sleepHonest delays the honest peers until the liar has committed its fault, or for four seconds.
func (w *simWorld) sleepHonest() {
	for _, n := range w.honest {
		n.machine.sleep()
	}
	time.AfterFunc(4*time.Second, w.wakeHonest) // before narbor gives them up as gone
}

func (w *simWorld) wakeHonest() {
	for _, n := range w.honest {
		n.machine.wake()
	}
}

// commitInBlock makes the liar commit a fault in one block. For a fault in manifests, the liar sends that block wrong,
// and then at most two other blocks: so several peers have sent parts of the NAR, and alice asks the liar for its
// manifest.
func (w *simWorld) commitInBlock(f fault, at int) (fired *atomic.Int64) {
	fired = new(atomic.Int64)
	block, manifest := f.block, f.manifest
	inManifest := slices.ContainsFunc(manifestFaults(), func(m fault) bool { return m.name == f.name })
	others := atomic.Int64{}
	f.block = func(ctx context.Context, s network.Stream, a archive, i int, b []byte) error {
		answer := blockAnswer(statusRaw, b)
		switch {
		case i == at:
			time.AfterFunc(20*time.Millisecond, w.wakeHonest) // by then the block has arrived, if it arrives
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
