package integration_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// nixes returns the versions of Nix that tests try on a LAN, oldest first. It is called before newWorld: the first time
// it downloads for a minute or two.
func nixes(t *testing.T) []lan.Nix {
	t.Helper()
	needsLAN(t)
	nixes, err := lan.Nixes(t.Context())
	if err != nil {
		unable(t, err.Error())
	}
	var versions []string
	for _, nix := range nixes {
		versions = append(versions, nix.Version)
	}
	t.Cleanup(func() {
		if !t.Skipped() {
			worked.add(t.Name(), strings.Join(versions, "  "), !t.Failed())
		}
	})
	return nixes
}

// worked is the table of the tests that every version of Nix takes part in, and of their results.
var worked worksWith

type worksWith struct {
	mu       sync.Mutex
	versions string
	rows     []string
}

func (w *worksWith) add(test, versions string, passed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	result := "works"
	if !passed {
		result = "fails"
	}
	w.versions, w.rows = versions, append(w.rows, fmt.Sprintf("nix: %-45s %s", test, result))
}

// print writes the table. integration/check shows the lines that begin with "nix: ".
func (w *worksWith) print() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rows) > 0 {
		fmt.Printf("nix: %-45s %s\n%s\n", "works with", w.versions, strings.Join(w.rows, "\n"))
	}
}

// Each version of Nix gets a path from a holder with the version before it, and the oldest from one with the newest.
func TestClosureArrivesWithEveryNix(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	c := w.corpus(corpus.First())
	top := c.Infos[len(c.Infos)/2].Path.String()
	_, last := w.sharing("alice", c)
	for _, nix := range nixes {
		h := w.host(lan.HostConfig{Name: "bob-" + nix.Version, System: nix.System}, "substituters = "+lan.Substituter)
		p := w.start(h)
		w.neighbours(h, 1)
		w.realise(h, top)
		w.whole(h, c, top)
		t.Logf("Nix %s: %+v", nix.Version, w.status(h).Nix)
		w.must(last.Terminate(15 * time.Second)) // so that the next one has a single neighbour
		last = p
	}
	h, _ := w.fetching("carol")
	w.neighbours(h, 1)
	w.realise(h, top)
	w.whole(h, c, top)
}

// Each newer Nix fetches from the oldest beside a machine that sends wrong bytes, and its narbor is killed in the
// middle. The tests of liars and of restarts have the oldest alone.
func TestEveryNixOutlivesLiarsAndRestarts(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	alice, _ := w.sharing("alice", c)
	liar := w.liar("liar", c)
	for _, nix := range nixes[1:] {
		w.must(alice.Shape(5)) // so that there is a middle
		h := w.host(lan.HostConfig{Name: "bob-" + nix.Version, System: nix.System}, "substituters = "+lan.Substituter)
		p := w.start(h)
		w.neighbours(h, 2)
		r := w.begin(h, c.Top.String())
		w.until(h, "has caught the liar", func(s lan.Status) bool {
			for _, nb := range s.Neighbours {
				if at(nb.Addr, liar) && nb.WrongNARs > 0 {
					return true
				}
			}
			return false
		})
		select {
		case <-r.done:
			t.Errorf("Nix %s was done before narbor was killed", nix.Version)
		default:
		}
		w.must(p.Kill())
		w.must(alice.Shape(0))
		w.start(h)
		r.end()
		w.whole(h, c, c.Top.String())
		w.must(w.lan.Remove(h)) // or the next would fetch from it, too
	}
}
