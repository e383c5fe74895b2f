package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// unstruck fails if a machine has struck a neighbour.
func (w world) unstruck(h *lan.Host) lan.Status {
	w.Helper()
	s := w.status(h)
	for _, nb := range s.Neighbours {
		if nb.Strikes != 0 {
			w.Errorf("%s: neighbour %s has %d strikes, want none", h.Name, nb.Addr, nb.Strikes)
		}
	}
	if len(s.Banned) != 0 {
		w.Errorf("%s: banned are %+v, want none", h.Name, s.Banned)
	}
	return s
}

// One machine has another key under the name of the upstream's, by a typing error or a rotation. What its neighbour has
// is not believed there, the neighbour is no liar for it, and doctor names the key.
func TestKeyOfTheSameNameStrikesNobody(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	sharer, _ := w.sharing("sharer", c)
	other := w.shell(sharer, `nix --extra-experimental-features nix-command key generate-secret --key-name `+corpus.KeyName+` |
		nix --extra-experimental-features nix-command key convert-secret-to-public`)
	fetcher := w.host(lan.HostConfig{Name: "fetcher"}, "substituters = "+lan.Substituter, "trusted-public-keys = "+strings.TrimSpace(other))
	w.start(fetcher)
	w.neighbours(fetcher, 1)

	var urls []string
	for _, info := range c.Infos[:min(len(c.Infos), 5)] {
		urls = append(urls, lan.Substituter+"/"+string(info.Path.HashPart())+".narinfo")
	}
	w.allAre(fetcher, "404", urls...)
	w.unstruck(fetcher)
	w.neighbours(fetcher, 1)
	f := w.wrong(fetcher, "warning", "health", "eighbours sign as "+corpus.KeyName+" with another key than nix.conf has")
	if !strings.Contains(f.Fix, "trusted-public-keys") {
		t.Errorf("doctor's fix is %q, want the line to compare", f.Fix)
	}

	// With the right key everything comes from the same neighbour, and doctor is content.
	w.must(fetcher.Configure("trusted-public-keys = " + corpus.PublicKey()))
	w.until(fetcher, "believes the right key", func(lan.Status) bool {
		codes, err := fetcher.Codes(w.ctx, urls...)
		return err == nil && !slices.Contains(codes, "404")
	})
	if f := w.doctor(fetcher, "health"); strings.Contains(f.Text, corpus.KeyName) {
		t.Errorf("doctor still says %q", f.Text)
	}
}

// A power cut has filled files with zeros on the machine that shares. Its neighbours get the paths elsewhere and tell
// it; it offers the damaged paths no more, says how to repair them, and offers them again once that is done.
func TestDamagedStoreIsToldAndRepaired(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	sharer, p := w.sharing("sharer", c)
	_, url := w.upstream(c)
	damaged := w.damage(sharer, c, 4)
	w.must(sharer.Configure("substituters = " + url))

	// Two machines, of which each finds at most three wrong NARs before it relies on the sharer no more.
	for i := range 2 {
		fetcher, fp := w.fetching(fmt.Sprintf("fetcher%d", i), url)
		w.neighbours(fetcher, 1)
		w.realise(fetcher, c.Top.String())
		w.whole(fetcher, c, c.Top.String())
		w.unstruck(fetcher)
		if i == 0 { // it reads what it was told of in the background
			w.eventually(func() bool {
				return w.doctor(sharer, "health").Command == "nix-store --verify --check-contents --repair"
			})
		}
		w.must(fp.Terminate(15 * time.Second))
	}
	w.eventually(func() bool { return w.offered(sharer, damaged) == 0 })
	for _, info := range damaged {
		out, _ := sharer.Run(w.ctx, narbor, "why", info.Path.String())
		if !strings.Contains(out, "damaged") || strings.Contains(out, "200") {
			t.Errorf("narbor why %s says\n%s\nwant that it is damaged, and no 200", info.Path, out)
		}
	}
	log, err := p.Log()
	w.must(err)
	if !strings.Contains(log, "is damaged") || !strings.Contains(log, "nix-store --verify --check-contents --repair") {
		t.Error("the sharer's journal does not say how to repair its store")
	}

	// A restart does not forget it.
	w.must(p.Terminate(15 * time.Second))
	w.start(sharer)
	if got := w.offered(sharer, damaged); got != 0 {
		t.Errorf("after a restart %d of %d damaged paths are offered, want none", got, len(damaged))
	}
	w.shell(sharer, "NIX_REMOTE= nix-store --verify --check-contents --repair 2>&1")
	for deadline := time.Now().Add(lan.AtMost(2 * time.Minute)); w.offered(sharer, damaged) < len(damaged); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("after the repair %d of %d paths are offered", w.offered(sharer, damaged), len(damaged))
		}
	}
	w.well(sharer, "health")
}

// damage fills a file of each of some paths with zeros.
func (w world) damage(h *lan.Host, c *corpus.Corpus, count int) (damaged []store.Info) {
	w.Helper()
	for _, info := range c.Infos {
		if len(damaged) == count {
			return damaged
		}
		out, err := h.Run(w.ctx, "sh", "-ec", `f=$(find "$0" -type f -size +300c | head -n 1); [ -n "$f" ] || exit 0
			chmod u+w "$f"; dd if=/dev/zero of="$f" bs=$(stat -c %s "$f") count=1 conv=notrunc status=none; chmod a-w "$f"; echo damaged`,
			info.Path.String())
		w.must(err)
		if strings.Contains(out, "damaged") {
			damaged = append(damaged, info)
		}
	}
	if len(damaged) < count {
		w.Fatalf("%d paths can be damaged, want %d", len(damaged), count)
	}
	return damaged
}

// offered is for how many of some paths a machine's narbor answers 200.
func (w world) offered(h *lan.Host, infos []store.Info) (count int) {
	w.Helper()
	var urls []string
	for _, info := range infos {
		urls = append(urls, lan.Substituter+"/"+string(info.Path.HashPart())+".narinfo")
	}
	codes, err := h.Codes(w.ctx, urls...)
	w.must(err)
	for _, code := range codes {
		if code == "200" {
			count++
		}
	}
	return count
}
