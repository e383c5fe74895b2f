package integration_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// maxGrowth bounds the growth of memory under an attack, in bytes.
const maxGrowth = 64 << 20

// maxFatGrowth is the bound for packets of 65,000 strings. The mDNS library parses them before narbor sees them, and
// its garbage stays until the next collection.
const maxFatGrowth = 96 << 20

// nightly reports whether to run the long forms of tests.
func nightly() bool { return os.Getenv("NARBOR_NIGHTLY") != "" }

// growing returns a function that fails the test if the process's peak memory has grown by more than a limit since.
func (w world) growing(p *lan.Process) func(what string, limit int64) {
	w.Helper()
	before, err := p.Usage()
	w.must(err)
	w.must(p.ResetPeak())
	return func(what string, limit int64) {
		w.Helper()
		now, err := p.Usage()
		w.must(err)
		w.Logf("%s: memory %d MiB before, %d MiB at most, and %s of processor time",
			what, before.RSS>>20, now.PeakRSS>>20, now.CPU-before.CPU)
		if now.PeakRSS-before.RSS > limit {
			w.Errorf("%s: memory grew from %d to %d MiB, want %d MiB more at most", what, before.RSS>>20, now.PeakRSS>>20, limit>>20)
		}
	}
}

// countDials makes a host count narbor's outgoing connections by kind of destination. It returns a function that
// returns the counts.
func (w world) countDials(h *lan.Host) func() map[string]int {
	w.Helper()
	script := `add table inet t; add chain inet t out { type filter hook output priority 0; }`
	for name, where := range map[string]string{
		"loopback": "oif lo", "offlink4": "oif != lo ip daddr != 10.62.72.0/24", "offlink6": "oif != lo ip6 daddr != fd62:7200::/64",
		"metadata": "ip daddr 169.254.169.254", "gateway": "ip daddr 10.62.72.254 tcp dport < 1024",
		"onlink": "ip daddr 10.62.72.200-10.62.72.207",
	} {
		script += fmt.Sprintf(`; add rule inet t out meta skuid 65534 tcp flags & (syn|ack) == syn %s counter comment "%s"`, where, name)
	}
	_, err := h.Run(w.ctx, "nft", script)
	w.must(err)
	return func() map[string]int {
		out, err := h.Run(w.ctx, "nft", "list", "table", "inet", "t")
		w.must(err)
		counts := map[string]int{}
		for _, m := range regexp.MustCompile(`counter packets (\d+) .* comment "(\w+)"`).FindAllStringSubmatch(out, -1) {
			counts[m[2]], _ = strconv.Atoi(m[1])
		}
		return counts
	}
}

// Ten thousand announcements name addresses that narbor must not dial, and machines that do not exist. Bob dials none
// of those addresses, completes its transfer, and then finds a new machine.
func TestFloodOfAnnouncements(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("alice", c)
	bob, p := w.fetching("bob")
	_, err := bob.Run(w.ctx, "ip", "route", "add", "default", "via", "10.62.72.254") // or the kernel would refuse off-link dials
	w.must(err)
	_, err = bob.Run(w.ctx, "ip", "neigh", "replace", "10.62.72.254", "lladdr", "02:00:00:00:00:fe", "dev", "eth0")
	w.must(err)
	w.neighbours(bob, 1)
	w.realise(bob, references(c.Biggest())...)
	dials := w.countDials(bob)
	grown := w.growing(p)

	over := 15 * time.Second // four times the rate of the long form
	if nightly() {
		over = time.Minute
	}
	mallory := w.host(lan.HostConfig{Name: "mallory"}, "substituters =")
	flood, _ := w.hostile(mallory, "--quiet", "--fault", "mdns-flood", "--over", over.String())
	w.until(bob, "dialled one of those on its link", func(lan.Status) bool { return dials()["onlink"] > 0 })
	w.realise(bob, c.Top.String())
	w.whole(bob, c, c.Top.String())
	w.over(flood, over)
	start := time.Now()
	w.sharing("carol", c)
	w.neighbours(bob, 2)
	t.Logf("a new machine is found %s after the flood", time.Since(start).Round(time.Millisecond))
	got := dials()
	t.Logf("dials: %v", got)
	grown("10,000 announcements", maxGrowth)
	for _, where := range []string{"loopback", "offlink4", "offlink6", "metadata", "gateway"} {
		if n, ok := got[where]; n > 0 || !ok {
			t.Errorf("%d dials of the kind %q (counted: %v), want none", n, where, ok)
		}
	}
}

// over waits until a flood of announcements has ended.
func (w world) over(flood *lan.Process, takes time.Duration) {
	w.Helper()
	for deadline := time.Now().Add(lan.AtMost(takes + 40*time.Second)); ; time.Sleep(100 * time.Millisecond) {
		log, err := flood.Log()
		w.must(err)
		if strings.Contains(log, "and no more") {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("the flood does not end:\n%s", log)
		}
	}
}

// Announcements of 65,000 strings each do not make memory grow beyond a bound.
func TestFloodOfFatAnnouncements(t *testing.T) {
	w := newWorld(t)
	bob := w.host(lan.HostConfig{Name: "bob"}, "substituters =")
	p := w.start(bob)
	mallory := w.host(lan.HostConfig{Name: "mallory"}, "substituters =")
	grown := w.growing(p)
	flood, _ := w.hostile(mallory, "--quiet", "--fault", "mdns-fat", "--over", "5s")
	w.over(flood, 5*time.Second)
	grown("1,000 fat announcements", maxFatGrowth)
}

// A thousand identities of one machine request all blocks and read no answer. An honest neighbour stays connected and
// gets NARs, and so does one that starts later.
func TestManyIdentitiesOfOneMachine(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	alice, p := w.sharing("alice", c)
	_, url := w.upstream(c)
	carol, _ := w.fetching("carol", url)
	w.neighbours(carol, 1)
	alone := w.begin(carol, c.Top.String())
	alone.end()
	w.must(w.lan.Remove(carol))
	bob, _ := w.fetching("bob", url)
	w.neighbours(bob, 1)
	grown := w.growing(p)

	mallory := w.host(lan.HostConfig{Name: "mallory", Nix: c.Nix}, "substituters =")
	attack, _ := w.hostile(mallory, "--quiet", "--fault", "identities", "--target", alice.Addr4.String())
	w.until(alice, "was connected to 20 more", func(s lan.Status) bool { return len(s.Neighbours) > 20 })
	w.until(alice, "was tried by all", func(s lan.Status) bool {
		log, err := attack.Log()
		return err == nil && strings.Contains(log, ": 1000 identities tried")
	})
	for _, h := range []*lan.Host{bob, w.newcomer(url)} {
		beside := w.begin(h, c.Top.String())
		beside.end()
		w.whole(h, c, c.Top.String())
		s := w.status(h)
		t.Logf("%s, beside the identities: %s, %.2f times as long as alone; %d of %d archives from narbor", h.Name, beside.took,
			float64(beside.took)/float64(alone.took), s.Nix.NarsServed, len(c.Infos))
		if s.Nix.NarsServed == 0 {
			t.Errorf("%s got nothing from its neighbour", h.Name)
		}
	}
	grown("1,000 identities", maxGrowth)
	connected := 0
	for _, nb := range w.status(alice).Neighbours {
		if at(nb.Addr, mallory) {
			connected++
		}
	}
	t.Logf("%d of the identities are connected", connected)
}

// newcomer adds a machine and waits until it has found a neighbour.
func (w world) newcomer(url string) *lan.Host {
	w.Helper()
	start := time.Now()
	dave, _ := w.fetching("dave", url)
	w.neighbours(dave, 1)
	w.Logf("a new machine had a neighbour %s after it was switched on", time.Since(start).Round(time.Millisecond))
	return dave
}

// Another neighbour still gets its share beside a peer that downloads without end, reads no answers, enumerates hash
// parts, or sends malformed requests.
func TestGreedyNeighbours(t *testing.T) {
	for _, fault := range []string{"greedy", "deaf", "probe", "garbage-request"} {
		t.Run(fault, func(t *testing.T) {
			w := newWorld(t)
			c := w.corpus(corpus.Small())
			alice, p := w.sharing("alice", c)
			w.must(alice.Shape(swarmRate))
			mallory := w.host(lan.HostConfig{Name: "mallory", Nix: c.Nix}, "substituters =")
			grown := w.growing(p)
			attack, _ := w.hostile(mallory, "--quiet", "--fault", fault, "--target", alice.Addr4.String())
			w.until(alice, "was attacked", func(lan.Status) bool {
				log, err := attack.Log()
				return err == nil && strings.Contains(log, "offence")
			})
			bob, _ := w.fetching("bob")
			w.neighbours(bob, 1)
			w.realise(bob, c.Top.String())
			w.whole(bob, c, c.Top.String())
			grown(fault, maxGrowth)
			log, err := attack.Log()
			w.must(err)
			t.Logf("%s", log[strings.LastIndex(log, "offence"):])
		})
	}
}
