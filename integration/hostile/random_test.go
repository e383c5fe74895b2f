package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/store"
	"narbor/store/storetest"
)

// These are the numbers of random schedules: of plain go test, of the check, and with NARBOR_NIGHTLY=1 in the
// environment. By default the seeds start at 0, at night at a random number. NARBOR_SEED sets the first seed.
const schedulesPlain, schedulesInCheck, schedulesNightly = 20, 60, 10_000

// TestRandomSchedules runs LANs with random parameters: the latency, rate and outages of the peers, the number of
// liars, up to three faults of each, and the times at which Nix asks and hangs up. In each schedule, Nix gets the right
// bytes or 404 in time, no honest peer has a strike, and no goroutine, memory or spool space leaks.
//
//	NARBOR_NIGHTLY=1 [NARBOR_SEED=N] go test ./integration/hostile -run TestRandomSchedules -timeout 0 -v
func TestRandomSchedules(t *testing.T) {
	first, n := uint64(0), schedulesPlain
	if storetest.InCheck() {
		n = schedulesInCheck
	}
	if os.Getenv("NARBOR_NIGHTLY") != "" {
		first, n = rand.Uint64N(1<<40), schedulesNightly
	}
	if text := os.Getenv("NARBOR_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("NARBOR_SEED: %v", err)
		}
		first = seed
	}
	t.Logf("%d schedules from NARBOR_SEED=%d on", n, first)
	before := heap()
	var answers tallied
	t.Run("schedules", func(t *testing.T) {
		for i := range uint64(n) {
			t.Run(fmt.Sprint(first+i), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { schedule(t, first+i, &answers) })
			})
		}
	})
	if after := heap(); after > before+maxKept {
		t.Errorf("%d schedules have left %d bytes of memory behind, want %d at most", n, after-before, maxKept)
	}
	t.Logf("Nix got %d narinfos and %d NARs", answers.narinfos.Load(), answers.nars.Load())
	if answers.nars.Load() < answers.schedules.Load() {
		t.Errorf("Nix got %d NARs in %d schedules: too few to mean anything", answers.nars.Load(), answers.schedules.Load())
	}
}

// schedule runs the random LAN that seed determines.
func schedule(t *testing.T, seed uint64, answers *tallied) {
	w := newWorld(t, seed, 1+rand.New(rand.NewPCG(seed, 2)).IntN(8))
	w.answers = answers
	answers.schedules.Add(1)
	for i := range w.rng.IntN(3) { // more liars than one
		m, liar := w.addLiar(fmt.Sprintf("10.0.0.%d", 67+i))
		w.answer(liar, w.anyFaults()...)
		w.rough(m)
		w.find(m, liar.host.ID())
	}
	w.answer(w.liar, w.anyFaults()...)
	w.rough(w.mallet)
	w.meet(w.rng.IntN(simHonest + 1))
	for _, n := range w.honest {
		w.rough(n.machine)
	}
	var asked sync.WaitGroup
	for range 4 + w.rng.IntN(8) {
		p, narinfo, from, hangUp := w.paths[w.rng.IntN(simPaths)], w.rng.IntN(3) == 0, 0, time.Duration(0)
		if w.rng.IntN(2) == 0 {
			from = w.rng.IntN(len(p.nar))
		}
		if w.rng.IntN(5) == 0 {
			hangUp = time.Duration(w.rng.IntN(100)) * time.Millisecond
		}
		asked.Go(func() {
			switch {
			case hangUp > 0:
				ctx, cancel := context.WithTimeout(t.Context(), hangUp)
				defer cancel()
				w.get(ctx, p.url(), "")
			case narinfo:
				w.wantNarinfo(p, true)
			default:
				w.wantNAR(p, from, true)
			}
		})
		w.mishap()
		time.Sleep(time.Duration(w.rng.IntN(300)) * time.Millisecond)
	}
	asked.Wait()
	w.wakeHonest()
	w.endWhole()
	if t.Failed() {
		t.Logf("again: NARBOR_SEED=%d go test ./integration/hostile -run 'TestRandomSchedules/schedules/%d$'", seed, seed)
	}
}

// anyFaults returns up to three random faults, which take turns. Each is committed once in one to four opportunities.
func (w *simWorld) anyFaults() (faults []fault) {
	all := append(append(transferFaults(), askFaults()...), streamFaults()...)
	for range 1 + w.rng.IntN(3) {
		faults = append(faults, everyNth(1+w.rng.IntN(4), all[w.rng.IntN(len(all))]))
	}
	return faults
}

// everyNth returns the fault f, committed only in every nth block or claim.
func everyNth(n int, f fault) fault {
	block, claim, occasions := f.block, f.claim, new(atomic.Int64)
	if block != nil {
		f.block = func(ctx context.Context, s network.Stream, a archive, i int, b []byte) error {
			if occasions.Add(1)%int64(n) == 0 {
				return block(ctx, s, a, i, b)
			}
			_, err := s.Write(blockAnswer(statusRaw, b))
			return err
		}
	}
	if claim != nil {
		f.claim = func(ctx context.Context, s network.Stream, m *machine, hp store.HashPart, info store.Info) error {
			if occasions.Add(1)%int64(n) == 0 {
				return claim(ctx, s, m, hp, info)
			}
			text := ""
			if !info.Path.IsZero() {
				text = info.String()
			}
			_, err := s.Write(claimAnswer(text))
			return err
		}
	}
	return f
}

// rough gives a machine's link a random latency and rate, from those of a cable to those of weak radio.
func (w *simWorld) rough(m *simMachine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latency = time.Duration(50+w.rng.IntN(20_000)) * time.Microsecond
	m.rate = int64(1<<20) << w.rng.IntN(8)
}

// mishap interrupts the link of a random honest machine with probability 1/4, for up to three seconds.
func (w *simWorld) mishap() {
	m := w.honest[w.rng.IntN(simHonest)].machine
	if w.rng.IntN(4) == 0 {
		m.sleep()
		time.AfterFunc(time.Duration(w.rng.IntN(3000))*time.Millisecond, m.wake)
	}
}
