package integration_test

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
	"narbor/store"
)

// A slowLine is a holder of a large NAR behind 20 Mbit/s, and a host with each version of Nix, which hangs up when no
// byte has come for 5 s.
type slowLine struct {
	handmade
	alice  *lan.Host
	large  store.Info
	askers []*lan.Host
	began  []*realisation
}

func newSlowLine(w world, size int) *slowLine {
	w.Helper()
	l := &slowLine{handmade: newHandmade(w)}
	contents := make([]byte, size)
	rand.Read(contents)
	l.large = l.add("large", narOf(fileTokens(string(contents))...))
	l.alice = l.holder("alice")
	w.must(l.alice.Shape(20))
	return l
}

// ask lets each Nix begin to fetch from a narbor with these flags, and then from other substituters.
func (l *slowLine) ask(nixes []lan.Nix, flags []string, others ...string) {
	l.Helper()
	for _, nix := range nixes {
		h := l.host(lan.HostConfig{Name: "bob-" + nix.Version, System: nix.System}, "extra-trusted-public-keys = "+l.public,
			"substituters = "+strings.Join(append([]string{lan.Substituter}, others...), " "), "stalled-download-timeout = 5")
		l.start(h, append([]string{"--share-key", "handmade-1"}, flags...)...)
		l.neighbours(h, 1)
		l.askers = append(l.askers, h)
	}
	for _, h := range l.askers {
		l.began = append(l.began, l.begin(h, l.large.Path.String()))
	}
}

// answers returns how many requests for a NAR narbor has answered with each status.
func (w world) answers(h *lan.Host) map[string]int {
	w.Helper()
	_, text, err := h.Get(w.ctx, lan.Substituter+"/metrics")
	w.must(err)
	answers := map[string]int{}
	for line := range strings.Lines(text) {
		var code string
		var n int
		if _, err := fmt.Sscanf(line, `narbor_http_requests_total{code=%q,route="nar"} %d`, &code, &n); err == nil && n > 0 {
			answers[code] = n
		}
	}
	return answers
}

// The NAR takes 25 s to come, and Nix waits for it in one request.
func TestEveryNixWaitsForALateNAR(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	l := newSlowLine(w, 60<<20)
	l.ask(nixes, nil)
	for i, h := range l.askers {
		l.began[i].end()
		w.must(h.Verify(w.ctx))
		if got := w.answers(h); len(got) != 2 || got["302"] != 1 || got["200"] != 1 {
			t.Errorf("%s: NARs were answered with %v, want a redirect and the NAR", h.Name, got)
		}
		if l.began[i].took < 10*time.Second {
			t.Errorf("%s: it took %s, which is no slow line", h.Name, l.began[i].took)
		}
		if n := received(w.status(h)); n*100 > 105*int64(store.NumBlocks(l.large.NarSize)) {
			t.Errorf("%s: %d blocks were received for a NAR of %d", h.Name, n, store.NumBlocks(l.large.NarSize))
		}
	}
}

// The only neighbour that has the NAR goes away while Nix waits for it. The askers share nothing: the first of them to
// get the NAR from the upstream would otherwise give it to the others.
func TestEveryNixGoesOnAfterALateNARFails(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	l := newSlowLine(w, 60<<20)
	upstream, err := w.lan.Add(lan.HostConfig{Name: "upstream", Binds: map[string]string{"srv/cache": l.dir}})
	w.must(err)
	_, url, err := upstream.StartNginx("/srv/cache")
	w.must(err)
	l.ask(nixes, []string{"--share", "none"}, url+"?priority=40") // nginx states none
	for _, h := range l.askers {
		w.until(h, "received part of the NAR, after a redirect", func(s lan.Status) bool { return received(s) > 40 })
	}
	w.must(l.alice.Unplug())
	for i, h := range l.askers {
		l.began[i].end()
		w.must(h.Verify(w.ctx))
		if got := w.answers(h); len(got) != 2 || got["302"] != 1 || got["404"] != 1 {
			t.Errorf("%s: NARs were answered with %v, want a redirect and 404", h.Name, got)
		}
	}
}
