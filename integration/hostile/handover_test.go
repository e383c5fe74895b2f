package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// The ways in which Nix asks for a NAR.
var askings = [positions]struct {
	name string
	get  func(w *simWorld, p simPath, maybe bool)
}{
	{"whole", func(w *simWorld, p simPath, maybe bool) { w.wantNAR(p, 0, maybe) }},
	{"rest", func(w *simWorld, p simPath, maybe bool) { w.wantNAR(p, len(p.nar)/2, maybe) }},
	{"restart", func(w *simWorld, p simPath, maybe bool) {
		w.serve()
		w.wantNAR(p, 0, maybe)
	}},
	{"twice", func(w *simWorld, p simPath, maybe bool) {
		var both sync.WaitGroup
		both.Go(func() { w.wantNAR(p, 0, maybe) })
		both.Go(func() { w.wantNAR(p, 1000, maybe) })
		both.Wait()
	}},
	{"hang-up", func(w *simWorld, p simPath, maybe bool) {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Millisecond)
		defer cancel()
		w.get(ctx, p.url(), "")
		w.wantNAR(p, 0, maybe)
	}},
}

// handOverCases: the liar is the only one who has the NAR that Nix asks for, in one of five ways, and commits the fault
// in all blocks. Nix gets nothing, or what is right; and all of it once somebody honest has it, too.
func handOverCases() (cases []matrixCase) {
	for _, f := range transferFaults() {
		for _, asking := range askings {
			cases = append(cases, matrixCase{fmt.Sprintf("handover/%s/%s", f.name, asking.name), func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, 1)
				p := w.path("rare", 4)
				w.liarsOwn.Add(p.info, p.nar)
				w.commit(f)
				w.meet(w.rng.IntN(simHonest + 1))
				w.wantNarinfo(p, false)
				asking.get(w, p, true)
				w.shared.Add(p.info, p.nar)
				time.Sleep(time.Minute) // what was looked up is old
				w.wantNarinfo(p, false)
				asking.get(w, p, false)
				of := offenceOf(f)
				if f.manifest != nil && of == aLie {
					of = aWrongNAR // the only holder is not asked for its manifest
				}
				w.end(of)
			}})
		}
	}
	return cases
}

func TestHandOver(t *testing.T) { runCases(t, handOverCases()) }
