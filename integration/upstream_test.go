package integration_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// upstreamRate is the rate in Mbit/s of the line to the internet, which all machines of the LAN share.
const upstreamRate = 60

// A household is a LAN of machines that share one upstream behind one line.
type household struct {
	world
	c      *corpus.Corpus
	nginx  *lan.Host
	url    string
	before lan.Wire
}

func newHousehold(w world, c *corpus.Corpus) *household {
	w.Helper()
	h := &household{world: w, c: c}
	h.nginx, h.url = w.upstream(c)
	w.must(h.nginx.Shape(upstreamRate))
	return h
}

// member adds a machine with an empty store. Its Nix asks only narbor.
func (h *household) member(name string) (*lan.Host, *lan.Process) {
	h.Helper()
	m := h.host(lan.HostConfig{Name: name}, "substituters = "+lan.Substituter)
	return m, h.start(m, "--upstream", h.url)
}

// downloaded returns the bytes over the line since its last call, as a multiple of the corpus's size.
func (h *household) downloaded() float64 {
	h.Helper()
	now, err := h.nginx.Wire(h.ctx)
	h.must(err)
	n := now.Out - h.before.Out
	h.before = now
	var whole int64
	for _, info := range h.c.Infos {
		whole += info.NarSize
	}
	return float64(n) / float64(whole)
}

func TestTheHouseholdDownloadsOnce(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	h := newHousehold(w, c)
	alone, p := h.member("alone")
	h.downloaded()
	r := h.begin(alone, c.Top.String())
	r.end()
	w.whole(alone, c, c.Top.String())
	one := h.downloaded()
	w.must(p.Kill())
	var members []*lan.Host
	for i := range 4 {
		m, _ := h.member(fmt.Sprintf("member%d", i))
		members = append(members, m)
	}
	for _, m := range members {
		w.neighbours(m, len(members)-1)
	}
	h.downloaded()
	var all []*realisation
	for _, m := range members {
		all = append(all, h.begin(m, c.Top.String()))
	}
	for _, r := range all {
		r.end()
	}
	four := h.downloaded()
	slowest := slices.MaxFunc(all, func(a, b *realisation) int { return int(a.took - b.took) }).took
	t.Logf("one machine: %.3f of the closure over the line in %s; four at once: %.3f in %s, %.2f × the bytes and %.2f × the time",
		one, r.took, four, slowest, four/one, float64(slowest)/float64(r.took))
	if four > 1.25*one {
		t.Errorf("four machines download %.2f × what one does, want at most 1.25", four/one)
	}
	for _, m := range members {
		w.whole(m, c, c.Top.String())
	}
	w.must(h.nginx.Unplug())
	late, _ := h.member("late")
	w.neighbours(late, len(members))
	h.begin(late, c.Top.String()).end()
	w.whole(late, c, c.Top.String())
}

func TestTheHouseholdBearsWithItsMembers(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	h := newHousehold(w, c)
	var members []*lan.Host
	var programs []*lan.Process
	for i := range 4 {
		m, p := h.member(fmt.Sprintf("member%d", i))
		members, programs = append(members, m), append(programs, p)
	}
	for _, m := range members {
		w.neighbours(m, len(members)-1)
	}
	w.must(members[1].Shape(1)) // one is slow, one dies, and a fifth lies
	liar := w.host(lan.HostConfig{Name: "liar", Nix: c.Nix}, "substituters =")
	w.hostile(liar, "--fault", "flipped-block")
	h.downloaded()
	all := make([]*realisation, len(members))
	for _, i := range []int{0, 2, 3} {
		all[i] = h.begin(members[i], c.Top.String())
		time.Sleep(300 * time.Millisecond)
	}
	time.Sleep(time.Second)
	w.must(programs[3].Kill())
	w.must(members[3].Unplug())
	for _, i := range []int{0, 2} {
		all[i].end()
		w.whole(members[i], c, c.Top.String())
	}
	t.Logf("with one that is slow, one that dies and one that lies: %.2f of the closure over the line", h.downloaded())
}

// Two assigned proxies report a download, but send no blocks or send them far too slowly.
func TestTheHouseholdOvertakesProxiesThatLie(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	h := newHousehold(w, c)
	var members []*lan.Host
	for i := range 3 {
		m, _ := h.member(fmt.Sprintf("member%d", i))
		members = append(members, m)
	}
	for _, fault := range []string{"idle-proxy", "slow-proxy"} {
		w.hostile(w.host(lan.HostConfig{Name: fault, Nix: c.Nix}, "substituters ="), "--fault", fault, "--upstream", h.url+"/")
	}
	for _, m := range members {
		w.neighbours(m, len(members)+1)
	}
	h.downloaded()
	var all []*realisation
	for _, m := range members {
		all = append(all, h.begin(m, c.Top.String()))
	}
	for i, r := range all {
		r.end()
		w.whole(members[i], c, c.Top.String())
	}
	t.Logf("with two of five that only say to download: %.2f of the closure over the line", h.downloaded())
}
