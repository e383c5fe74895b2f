package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// The fetching narbor is killed and restarted at ten points of a build, behind a socket that stays open. The only
// other substituter is out of reach, so that every path comes through narbor.
func TestRestartsOfNarborFailNoBuild(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("alice", c)
	const points = 10
	for point := range points {
		t.Run(fmt.Sprint(point), func(t *testing.T) {
			w := w
			w.T = t
			bob := w.host(lan.HostConfig{Name: fmt.Sprintf("bob%d", point)}, "substituters = "+lan.Substituter)
			p := w.start(bob)
			// Point 0 is while Nix asks for narinfos; the others are at equal steps of the transfer.
			at := point * len(c.Infos) / points
			kill, killed := make(chan struct{}), make(chan error, 1)
			go func() {
				<-kill
				err := p.Kill()
				if err == nil {
					_, err = bob.StartNarbor(narbor)
				}
				killed <- err
			}()
			if at == 0 {
				close(kill)
			}
			fetched := 0
			var said strings.Builder
			out, err := bob.Watch(w.ctx, func(line string) {
				said.WriteString(line + "\n")
				if strings.HasPrefix(line, "copying path") {
					if fetched++; fetched == at {
						close(kill)
					}
				}
			}, lan.BuildCommand(fmt.Sprint("reader", point), c.Top.String())...)
			if fetched < at {
				t.Fatalf("Nix fetched %d paths, and narbor was to be killed at %d: %v\n%s", fetched, at, err, said.String())
			}
			w.must(<-killed)
			if err != nil {
				t.Fatalf("narbor was killed at path %d: %v", at, err)
			}
			t.Logf("killed at path %d of %d: %s", at, len(c.Infos), strings.TrimSpace(out))
			w.noHarm(bob, said.String())
			w.whole(bob, c, c.Top.String())
			if !t.Failed() {
				w.must(w.lan.Remove(bob)) // or the next would fetch from it, too
			}
		})
	}
}

// The same in the middle of an archive that takes seconds.
func TestRestartInTheMiddleOfOneNAR(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.First())
	w.sharing("alice", c)
	bob, p := w.fetching("bob")
	w.must(bob.Shape(500))
	big := c.Biggest()
	w.realise(bob, references(big)...)
	before := received(w.status(bob))
	r := w.begin(bob, big.Path.String())
	w.until(bob, "was in the middle of the archive", func(s lan.Status) bool { return received(s)-before > 200 })
	w.must(p.Kill())
	w.start(bob)
	r.end()
	w.whole(bob, c, big.Path.String())
}
