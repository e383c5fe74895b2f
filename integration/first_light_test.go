package integration_test

import (
	"strings"
	"testing"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// Two machines, nothing configured but the substituter line, and the only upstream out of reach.
func TestClosureArrivesFromTheOnlyNeighbour(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.First())
	if b := c.Biggest(); len(c.Infos) < 200 || c.Bytes() < 300e6 || b.NarSize < 150e6 {
		t.Fatalf("the corpus has %d paths, %d bytes, and none above %d bytes: not worth the name", len(c.Infos), c.Bytes(), b.NarSize)
	}
	w.sharing("alice", c)
	bob := w.host(lan.HostConfig{Name: "bob"}, "extra-substituters = "+lan.Substituter)
	w.start(bob)
	out, err := bob.Watch(w.ctx, nil, lan.BuildCommand("reader", c.Top.String())...)
	w.must(err)
	t.Logf("built %s", strings.TrimSpace(out))
	n := int64(len(c.Infos))
	s := w.until(bob, "served all", func(s lan.Status) bool { return s.Nix.NarsServed >= n && s.Nix.NarBytesServed >= c.Bytes() })
	t.Logf("%+v", s)
	if s.Nix.NarinfoHits < n {
		t.Errorf("narbor answered %+v, want at least %d hits", s.Nix, n)
	}
	if s.Nix.NarinfoMisses == 0 {
		t.Error("Nix asked for no path that nobody has, and yet it built something")
	}
	w.whole(bob, c, c.Top.String())
}

func TestBlocksOfOneNARComeFromBothNeighbours(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.First())
	w.sharing("alice", c)
	w.sharing("bob", c)
	carol, _ := w.fetching("carol")
	w.neighbours(carol, 2)
	big := c.Biggest()
	w.realise(carol, references(big)...)
	before := map[string]int64{}
	for _, nb := range w.status(carol).Neighbours {
		before[nb.ID] = nb.BlocksReceived
	}
	w.realise(carol, big.Path.String())
	// An even split is not wanted; but one that leaves one neighbour idle for most of the time is a defect.
	const share = 10
	blocks := big.NarSize / (256 << 10)
	for _, nb := range w.status(carol).Neighbours {
		got := nb.BlocksReceived - before[nb.ID]
		t.Logf("%d of %d blocks from %s", got, blocks, nb.Addr)
		if got < blocks/share {
			t.Errorf("%d of %d blocks came from %s, want at least one in %d", got, blocks, nb.Addr, share)
		}
	}
	w.whole(carol, c, big.Path.String())
}
