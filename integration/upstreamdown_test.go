package integration_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// absentInfos returns URLs of narinfos without a holder.
func absentInfos(kind byte, n int) (urls []string) {
	for i := range n {
		hp := store.HashPartFromBytes([20]byte{kind, byte(i >> 8), byte(i)})
		urls = append(urls, lan.Substituter+"/"+string(hp)+".narinfo")
	}
	return urls
}

// allAre compares the answers to some questions with the one that each must have.
func (w world) allAre(h *lan.Host, want string, urls ...string) {
	w.Helper()
	codes, err := h.Codes(w.ctx, urls...)
	w.must(err)
	if other := slices.DeleteFunc(codes, func(c string) bool { return c == want }); len(other) > 0 {
		w.Errorf("%s: %d of %d answers are not %s: %v", h.Name, len(other), len(urls), want, slices.Compact(other))
	}
}

// A narbor with an unreachable upstream waits for it once, and not for each request.
func TestAnUpstreamThatIsUnpluggedCostsOneWait(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("neighbour", c)
	far, url := w.upstream(c)
	alice := w.host(lan.HostConfig{Name: "alice"}, "substituters = "+lan.Substituter)
	w.start(alice, "--upstream", url)
	w.neighbours(alice, 1)
	w.allAre(alice, "404", absentInfos(1, 10)...)
	w.must(far.Unplug())
	w.allAre(alice, "404", absentInfos(2, 1)...)
	began := time.Now()
	w.allAre(alice, "404", absentInfos(3, 50)...)
	if took := time.Since(began); took > 20*time.Second { // a wait for each would be 250 s
		t.Errorf("50 questions took %s without the upstream", took)
	}
	var here []string
	for _, info := range c.Infos {
		here = append(here, lan.Substituter+"/"+string(info.Path.HashPart())+".narinfo")
	}
	w.allAre(alice, "200", here...)
	w.realise(alice, c.Top.String())
	w.whole(alice, c, c.Top.String())
	w.must(far.Plug())
	before, err := far.NginxRequests()
	w.must(err)
	more := absentInfos(4, 1000)
	w.until(alice, "asks its upstream again", func(lan.Status) bool {
		w.allAre(alice, "404", more[0])
		more = more[1:]
		now, err := far.NginxRequests()
		w.must(err)
		return len(now) > len(before)
	})
}

// All machines of a LAN together ask the upstream once about a path without a holder, and not again soon after.
func TestLANAsksUpstreamOnceAboutMissingPath(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	far, url := w.upstream(c)
	var hosts []*lan.Host
	for _, name := range []string{"a", "b", "c"} {
		h := w.host(lan.HostConfig{Name: name}, "substituters =")
		w.start(h, "--upstream", url)
		hosts = append(hosts, h)
	}
	for _, h := range hosts {
		w.neighbours(h, len(hosts)-1)
	}
	const paths = 1000
	for round := range 2 {
		var wg sync.WaitGroup
		for _, h := range hosts {
			wg.Go(func() {
				codes, err := h.Codes(w.ctx, absentInfos(1, paths)...)
				if i := slices.IndexFunc(codes, func(c string) bool { return c != "404" }); err != nil || i >= 0 {
					t.Errorf("%s: answer %d of %v, %v, want 404", h.Name, i, len(codes), err)
				}
			})
		}
		wg.Wait()
		reqs, err := far.NginxRequests()
		w.must(err)
		t.Logf("after round %d: %d questions to the upstream about %d paths, by %d hosts", round+1, len(reqs), paths, len(hosts))
		if len(reqs) > paths*5/4 { // on a busy computer, some answers of neighbours come too late
			t.Errorf("%d questions to the upstream about %d paths", len(reqs), paths)
		}
	}
}
