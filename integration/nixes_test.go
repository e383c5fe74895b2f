package integration_test

import (
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// nixes returns the versions of Nix that tests try, oldest first. It is called before newWorld: the first time it
// downloads for a minute or two.
func nixes(t *testing.T) []lan.Nix {
	t.Helper()
	nixes, err := lan.Nixes(t.Context())
	if err != nil {
		unable(t, err.Error())
	}
	return nixes
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

// Each newer Nix fetches from the oldest beside a machine that sends wrong bytes, and its narbor is killed in the middle. The
// tests of liars and of restarts have the oldest alone.
func TestEveryNixOutlivesLiarsAndRestarts(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	alice, _ := w.sharing("alice", c)
	liar := w.liar("liar", c)
	w.must(alice.Shape(20)) // so that there is a middle
	for _, nix := range nixes[1:] {
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
		w.start(h)
		r.end()
		w.whole(h, c, c.Top.String())
		w.must(w.lan.Remove(h)) // or the next would fetch from it, too
	}
}
