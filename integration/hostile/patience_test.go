package main

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// faultNamed returns a fault of the catalogue.
func faultNamed(t *testing.T, name string) fault {
	t.Helper()
	all := allFaults()
	i := slices.IndexFunc(all, func(f fault) bool { return f.name == name })
	if i < 0 {
		t.Fatalf("there is no fault %q", name)
	}
	return all[i]
}

// A machine alone has some paths, and sends true blocks far too slowly. The first NAR costs seconds, not the four
// minutes for which Nix would wait; and then what that machine alone claims is 404, until it gets another chance.
func TestSoleClaimantThatSendsTooSlowlyIsNotReliedOn(t *testing.T) {
	for _, name := range []string{"slow-block", "trickle", "silent-block"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 7, 1)
				paths := []simPath{w.path("rare", 60), w.path("rarer", 3)}
				for _, p := range paths {
					w.liarsOwn.Add(p.info, p.nar)
				}
				w.commit(faultNamed(t, name))
				w.meet(0)
				w.wantNarinfo(paths[0], false)
				began := time.Now()
				if rec := w.get(t.Context(), paths[0].url(), ""); rec.Code != http.StatusNotFound {
					t.Errorf("GET %s = %d, want 404", paths[0].url(), rec.Code)
				}
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("Nix has waited for %v", took)
				}
				for _, p := range paths {
					for _, url := range []string{p.narinfo(), p.url()} {
						if rec := w.get(t.Context(), url, ""); rec.Code != http.StatusNotFound {
							t.Errorf("after a bad experience GET %s = %d, want 404", url, rec.Code)
						}
					}
				}
				time.Sleep(2 * time.Minute)
				w.wantNarinfo(paths[1], false)
				w.end(noOffence)
			})
		})
	}
}

// A machine sends wrong blocks, and trickles the manifest that it is asked for then.
func TestTrickledManifestHoldsUpLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, positions)
		asked := w.commitInBlock(faultNamed(t, "trickled-manifest"), 0)
		w.meet(0)
		p := w.paths[0]
		w.wantNarinfo(p, false)
		time.Sleep(20 * time.Millisecond)
		w.sleepHonest()
		began := time.Now()
		w.wantNAR(p, 0, false)
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("Nix has waited for %v", took)
		}
		if asked.Load() == 0 {
			t.Error("no manifest was asked for")
		}
		w.end(aWrongNAR)
	})
}
