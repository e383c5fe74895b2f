package integration_test

import (
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// A path is garbage-collected while it is sent; then its files are torn away, which no temporary root prevents.
func TestPathIsCollectedWhileItIsSent(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.First())
	alice, _ := w.sharing("alice", c)
	_, url := w.upstream(c)
	bob, _ := w.fetching("bob", url)
	w.must(bob.Shape(400))
	w.neighbours(bob, 1)
	big := c.Biggest()

	r := w.begin(bob, c.Top.String())
	w.until(bob, "was in the middle of the archive", func(s lan.Status) bool { return received(s) > 400 })
	_, err := alice.Run(w.ctx, "sh", "-c", `NIX_REMOTE= nix-store --delete --ignore-liveness "$0"`, big.Path.String())
	t.Logf("nix-store --delete while the path is sent: %v", err)
	_, err = alice.Run(w.ctx, "rm", "-rf", big.Path.String())
	w.must(err)
	r.end()
	w.whole(bob, c, c.Top.String())
}

// The neighbour's database has paths with missing or truncated files: Nix gets these from another substituter.
func TestPathsThatAreBrokenAtTheNeighbour(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	alice, _ := w.sharing("alice", c)
	nginx, url := w.upstream(c)
	bob, _ := w.fetching("bob", url)
	w.neighbours(bob, 1)
	broken := c.Biggest().Path.String()
	_, err := alice.Run(w.ctx, "sh", "-ec",
		`find "$0" -type f -size +16k -exec sh -ec 'for f; do chmod u+w "$f"; truncate -s -8k "$f"; done' sh {} +`, broken)
	w.must(err)
	gone := c.Infos[0].Path.String()
	_, err = alice.Run(w.ctx, "rm", "-rf", gone)
	w.must(err)

	w.realise(bob, c.Top.String())
	if nars := w.nars(nginx); len(nars) < 1 || len(nars) > 4 {
		t.Errorf("nginx served %d archives, want those of %s and %s and hardly more", len(nars), broken, gone)
	}
	w.whole(bob, c, c.Top.String())
}

// The file system with the spool is too small for one archive, and takes the others.
func TestSpoolIsFull(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.First())
	w.sharing("alice", c)
	nginx, url := w.upstream(c)
	bob := w.host(lan.HostConfig{Name: "bob", StateBytes: 24 << 20}, "substituters = "+lan.Substituter+" "+url)
	w.start(bob, "--min-free", "1MiB")
	w.neighbours(bob, 1)

	w.realise(bob, c.Top.String())
	s := w.status(bob)
	t.Logf("%+v", s)
	nars := w.nars(nginx)
	if big := "/nar/" + c.Biggest().NarHash.Base32() + ".nar"; !strings.Contains(strings.Join(nars, " "), big) {
		t.Errorf("nginx was not asked for %s, which cannot have fitted", big)
	}
	if int(s.Nix.NarsServed) < len(c.Infos)*9/10 {
		t.Errorf("narbor served %d of %d archives, and all but a few would have fitted", s.Nix.NarsServed, len(c.Infos))
	}
	w.whole(bob, c, c.Top.String())
}

// The cable is out for less time than TCP's retransmissions bridge: the transfer goes on.
func TestNetworkGoesAwayForAMoment(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("alice", c)
	bob, _ := w.fetching("bob")
	w.must(bob.Shape(100))
	r := w.begin(bob, c.Top.String())
	w.until(bob, "got blocks", func(s lan.Status) bool { return received(s) > 20 })
	w.must(bob.Unplug())
	time.Sleep(2 * time.Second) // the outage itself; nothing waits for something here
	w.must(bob.Plug())
	r.end()
	w.whole(bob, c, c.Top.String())
}

// TestAnswerIsLost drops all packets from a neighbour for 400 ms, so that its answer and the acknowledgement of the
// question are sent again when the time of a quick neighbour is over. Nix remembers a 404 for an hour.
func TestAnswerIsLost(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("alice", c)
	bob, _ := w.fetching("bob")
	w.neighbours(bob, 1)
	url := func(hp string) string { return lan.Substituter + "/" + hp + ".narinfo" }
	var absent []string // so bob learns how quickly alice answers
	for _, r := range "0123456789abcdfghijk" {
		absent = append(absent, url(strings.Repeat(string(r), 32)))
	}
	var tries []string
	told := map[store.Path]bool{} // the claims of references come with an answer
	for _, info := range c.Infos {
		if told[info.Path] || len(tries) == 5 { // on a busy machine the loss may be over before the question, or the answer too late
			continue
		}
		for _, ref := range info.References {
			told[ref] = true
		}
		out := w.shell(bob, `set -e; curl -s -o /dev/null `+strings.Join(absent, " -o /dev/null ")+`
			nft 'add table inet loss; delete table inet loss; add table inet loss
				add chain inet loss in { type filter hook input priority 0; }; add set inet loss lossy { type ifname; flags timeout; }
				add rule inet loss in iifname @lossy meta l4proto tcp counter drop; add element inet loss lossy { "eth0" timeout 400ms }'
			curl -s -o /dev/null -w '%{http_code} after %{time_total} s ' `+url(string(info.Path.HashPart()))+`
			nft list chain inet loss in | grep -o 'packets [0-9]*'`)
		tries = append(tries, out)
		if out > "200 after 0.25" && out < "201" && !strings.Contains(out, "packets 0") {
			return
		}
	}
	t.Errorf("paths with lost answers: %q, want one 200 after more than 0.25 s", tries)
}

// The interface is gone until narbor gives its neighbour up. Nix goes on with what else it has, and when the network is
// back, so are the neighbours.
func TestNetworkGoesAwayAndComesBack(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("alice", c)
	bob, err := w.lan.Add(lan.HostConfig{Name: "bob", Binds: map[string]string{"srv/cache": c.Cache, "opt": programs.dir}})
	w.must(err)
	_, url, err := bob.StartNginx("/srv/cache") // within bob: an upstream over a link that stays
	w.must(err)
	w.must(bob.Configure("extra-trusted-public-keys = "+corpus.PublicKey(),
		"substituters = "+lan.Substituter+" "+strings.Replace(url, bob.Addr4.String(), "127.0.0.1", 1)))
	_, err = bob.StartNixDaemon()
	w.must(err)
	w.start(bob)
	w.must(bob.Shape(50))
	w.neighbours(bob, 1)

	r := w.begin(bob, c.Top.String())
	w.until(bob, "got blocks", func(s lan.Status) bool { return received(s) > 20 })
	w.must(bob.SetInterface(false))
	r.end()
	if nars := w.nars(bob); len(nars) == 0 || len(nars) == len(c.Infos) {
		t.Errorf("nginx served %d archives of %d, want some, and not all", len(nars), len(c.Infos))
	}
	w.until(bob, "gave its neighbour up", func(s lan.Status) bool { return len(s.Neighbours) == 0 })
	w.must(bob.SetInterface(true))
	w.neighbours(bob, 1)
	if code, _, err := bob.Get(w.ctx, lan.Substituter+"/"+string(c.Top.HashPart())+".narinfo"); err != nil || code != "200" {
		t.Errorf("after the network is back, %s is %s, %v, want 200", c.Top, code, err)
	}
	w.whole(bob, c, c.Top.String())
}
