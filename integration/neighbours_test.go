package integration_test

import (
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// liar adds a machine that claims to have the corpus, and corrupts every byte of it.
func (w world) liar(name string, c *corpus.Corpus) *lan.Host {
	w.Helper()
	h := w.host(lan.HostConfig{Name: name, Nix: c.Nix}, "substituters =")
	w.hostile(h, "--fault", "wrong-block")
	return h
}

// hostile starts a neighbour that misbehaves, once on a machine, and returns it with its identity.
func (w world) hostile(h *lan.Host, args ...string) (p *lan.Process, id string) {
	w.Helper()
	p, err := h.StartHelper("/opt/hostile", args...)
	w.must(err)
	for deadline := time.Now().Add(lan.AtMost(20 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		log, err := p.Log()
		w.must(err)
		if _, rest, ok := strings.Cut(log, "identity "); ok {
			if id, _, ok := strings.Cut(rest, "\n"); ok {
				return p, id
			}
		}
	}
	w.Fatalf("%s: hostile does not start", h.Name)
	return nil, ""
}

// leftOut fails unless that host alone has sent wrong NARs, and is set aside for it; and none is struck, for a
// damaged store sends such NARs, too.
func (w world) leftOut(s lan.Status, liar *lan.Host) {
	w.Helper()
	if len(s.Banned) != 0 {
		w.Errorf("banned are %+v, want none", s.Banned)
	}
	for _, nb := range s.Neighbours {
		if bad := at(nb.Addr, liar); bad && nb.Aside == "" || (nb.WrongNARs > 0) != bad || nb.Strikes != 0 {
			w.Errorf("neighbour %s (liar: %t) has %d strikes and %d wrong NARs, and is set aside because it %q", nb.Addr, bad, nb.Strikes,
				nb.WrongNARs, nb.Aside)
		}
	}
}

// One neighbour is killed while it sends, one halts, and one sends nothing but wrong bytes. The fourth is honest, and
// there is no other substituter.
func TestOneHonestNeighbourIsEnough(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.First())
	honest, _ := w.sharing("honest", c)
	doomed, killed := w.sharing("doomed", c)
	asleep, stopped := w.sharing("asleep", c)
	liar := w.liar("liar", c)
	sources := []*lan.Host{honest, doomed, asleep, liar}
	for _, h := range sources {
		w.must(h.Shape(300)) // so that there is a middle of the transfer
	}
	fetcher, _ := w.fetching("fetcher")
	w.neighbours(fetcher, len(sources))

	r := w.begin(fetcher, c.Top.String())
	// Each has sent its part of the first quarter, and has more to come.
	w.until(fetcher, "got blocks from doomed and asleep", func(s lan.Status) bool {
		sending := 0
		for _, nb := range s.Neighbours {
			if (at(nb.Addr, doomed) || at(nb.Addr, asleep)) && nb.BlocksReceived > 100 {
				sending++
			}
		}
		return sending == 2
	})
	w.must(killed.Kill())
	w.must(stopped.Stop())
	r.end()
	s := w.until(fetcher, "served all archives", func(s lan.Status) bool { return s.Nix.NarsServed >= int64(len(c.Infos)) })
	t.Logf("%+v", s)
	w.leftOut(s, liar)
	w.whole(fetcher, c, c.Top.String())
}

// Without an honest neighbour, Nix gets all paths from its second substituter, and nothing wrong from narbor.
func TestNginxIsEnoughWhenNoNeighbourIsHonest(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	_, stopped := w.sharing("asleep", c)
	_, killed := w.sharing("dead", c)
	liar := w.liar("liar", c)
	nginx, url := w.upstream(c)
	fetcher, _ := w.fetching("fetcher", url)
	w.neighbours(fetcher, 3)
	w.must(killed.Kill())
	w.must(stopped.Stop())

	w.realise(fetcher, c.Top.String())
	s := w.status(fetcher)
	t.Logf("%+v", s)
	w.leftOut(s, liar)
	if s.Nix.NarinfoHits == 0 {
		t.Error("the liar's true claims were not believed, so its wrong bytes were never asked for")
	}
	if s.Nix.NarsServed != 0 {
		t.Errorf("narbor served %d archives, though no neighbour had sent it a right byte", s.Nix.NarsServed)
	}
	if nars := w.nars(nginx); len(nars) != len(c.Infos) {
		t.Errorf("nginx served %d archives, want all %d", len(nars), len(c.Infos))
	}
	w.whole(fetcher, c, c.Top.String())
}
