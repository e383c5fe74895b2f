package integration_test

import (
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

const (
	aliceRate = 200 // Mbit/s of the sharing machine's link
	bobRate   = 40  // Mbit/s of the link of each fetching machine
)

// A machine fetches at the rate of its own link from one that can serve five times as much: alone, beside another, and
// beside 32 greedy peers on one machine, which together should get no more than one machine. The rates are only logged;
// the test fails if the machine gets nothing.
func TestFairShareBesideGreedyPeers(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	alice, _ := w.sharing("alice", c)
	_, url := w.upstream(c) // for what the neighbour is too busy to tell of
	w.must(alice.Shape(aliceRate))
	fetcher := func(name string, rate int) *lan.Host {
		h, _ := w.fetching(name, url)
		w.must(h.Shape(rate))
		w.neighbours(h, 1)
		return h
	}
	row := func(what string, alone time.Duration, others ...*lan.Host) time.Duration {
		bob := fetcher("bob", bobRate)
		defer func() { w.must(w.lan.Remove(bob)) }()
		before := sentTo(w.status(alice), others...)
		r := w.begin(bob, c.Top.String())
		r.end()
		s := w.status(alice)
		mine, theirs := sentTo(s, bob), sentTo(s, others...)-before
		if alone == 0 {
			alone = r.took
		}
		t.Logf("fair share: %-46s %7.3f s, %3.0f %% of the speed alone; it was sent %d MB, the others %d MB", what,
			r.took.Seconds(), 100*float64(alone)/float64(r.took), mine/1e6, theirs/1e6)
		w.whole(bob, c, c.Top.String())
		if mine == 0 {
			t.Errorf("%s: it was sent nothing", what)
		}
		return r.took
	}
	row("(warming up)", 0)
	alone := row("alone", 0)
	dave := fetcher("dave", bobRate)
	other := w.begin(dave, c.Top.String())
	row("beside another that fetches", alone, dave)
	other.end()
	w.must(w.lan.Remove(dave))
	mallory := w.host(lan.HostConfig{Name: "mallory", Nix: c.Nix}, "substituters =")
	w.hostile(mallory, "--quiet", "--fault", "greedy", "--count", "32", "--target", alice.Addr4.String())
	w.until(alice, "was attacked by most", func(s lan.Status) bool {
		n := 0
		for _, nb := range s.Neighbours {
			if at(nb.Addr, mallory) {
				n++
			}
		}
		return n >= 30 && sentTo(s, mallory) > 0
	})
	row("beside 32 greedy peers of one machine", alone, mallory)
}

// sentTo returns how many bytes of NARs narbor has sent to hosts.
func sentTo(s lan.Status, hosts ...*lan.Host) (n int64) {
	for _, nb := range s.Neighbours {
		for _, h := range hosts {
			if at(nb.Addr, h) {
				n += nb.BytesSent
			}
		}
	}
	return n
}

// maxUnderAttack bounds narbor's memory under all attacks, in bytes.
const maxUnderAttack = 160 << 20

// The hostile peer commits all of its faults at once against a machine that fetches from it and serves another. Nix
// gets its closure, and narbor's memory is bounded.
func TestMemoryUnderAllAttacksAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	_, url := w.upstream(c)
	alice, p := w.fetching("alice", url)
	w.realise(alice, references(c.Biggest())...)
	answers := "wrong-block,extended-block,endless-block,trickle,silent-block,s2-bomb,s2-lie," +
		"s2-promise,zstd-bomb,zstd-window,zstd-promise,zstd-many," +
		"endless-manifest,oversized-claim,fat-claim,endless-claim,trickled-claim,endless-stream"
	for _, attack := range [][]string{{"greedy", "--count", "16"}, {"deaf"}, {"probe"}, {"garbage-request"}, {"identities"},
		{"mdns-flood", "--over", "1m"}, {"mdns-fat", "--over", "1m"}} {
		m := w.host(lan.HostConfig{Name: attack[0], Nix: c.Nix}, "substituters =")
		w.hostile(m, append([]string{"--target", alice.Addr4.String(), "--quiet", "--fault"}, attack...)...)
	}
	for _, name := range []string{"liar0", "liar1", "liar2"} {
		w.hostile(w.host(lan.HostConfig{Name: name, Nix: c.Nix}, "substituters ="), "--fault", answers)
	}
	w.until(alice, "had many neighbours", func(s lan.Status) bool { return len(s.Neighbours) > 40 })
	w.must(p.ResetPeak())
	bob, _ := w.fetching("bob", url)
	w.neighbours(bob, 1)
	for _, r := range []*realisation{w.begin(alice, c.Top.String()), w.begin(bob, c.Top.String())} {
		r.end()
		w.whole(r.h, c, c.Top.String())
	}
	u, err := p.Usage()
	w.must(err)
	t.Logf("under all attacks at once: %d MiB of memory at most, %d neighbours", u.PeakRSS>>20, len(w.status(alice).Neighbours))
	if u.PeakRSS > maxUnderAttack {
		t.Errorf("memory was %d MiB, want at most %d", u.PeakRSS>>20, maxUnderAttack>>20)
	}
}
