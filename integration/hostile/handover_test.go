package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// askings are the ways in which Nix asks for a NAR.
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

// handOverCases returns cases in which the liar is the only holder of a NAR and commits the fault in all of its blocks.
// Nix asks in one of five ways and gets 404 or the right bytes. Once an honest peer has the NAR too, Nix gets all of
// it.
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
				time.Sleep(time.Minute) // cached lookups expire
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
