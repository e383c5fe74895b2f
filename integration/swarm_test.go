package integration_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// honestHolders is how many machines of a swarm are honest.
const honestHolders = 8

// maxLies is how many a peer may tell; the third gets it banned.
const maxLies = 3

// A swarm is a LAN with honest holders of a corpus, and some that are not.
type swarm struct {
	world
	c      *corpus.Corpus
	honest []string // peer IDs
	liars  []liar
	rounds int
	clean  time.Duration // how long a fetch took without liars
}

type liar struct {
	fault string
	id    string
	proc  *lan.Process
}

func newSwarm(w world) *swarm {
	w.Helper()
	s := &swarm{world: w, c: w.corpus(corpus.Small())}
	for i := range honestHolders {
		h, _ := s.sharing(fmt.Sprintf("honest%d", i), s.c)
		w.must(h.Shape(swarmRate))
		s.honest = append(s.honest, s.status(h).PeerID)
	}
	s.fetch("without liars", nil)
	s.clean = s.fetch("without liars", nil)
	return s
}

// swarmRate is the rate of every holder's link in Mbit/s: slow enough for all of them to take part.
const swarmRate = 100

// add adds a machine that commits these faults.
func (s *swarm) add(fault string) {
	s.Helper()
	h := s.host(lan.HostConfig{Name: fmt.Sprintf("liar%d", len(s.liars)), Nix: s.c.Nix}, "substituters =")
	s.must(h.Shape(swarmRate))
	p, id := s.hostile(h, "--fault", fault)
	s.liars = append(s.liars, liar{fault, id, p})
}

// fetch adds a machine that fetches the whole corpus from the swarm, checks what it got, and returns how long it took.
// after looks at the machine before it is removed.
func (s *swarm) fetch(what string, after func(h *lan.Host, p *lan.Process)) time.Duration {
	s.Helper()
	s.rounds++
	h, p := s.fetching(fmt.Sprintf("fetcher%d", s.rounds))
	s.neighbours(h, honestHolders)
	if len(s.liars) > 0 {
		time.Sleep(time.Second) // for the liars, of which not all become neighbours
	}
	r := s.begin(h, s.c.Top.String())
	r.end()
	s.whole(h, s.c, s.c.Top.String())
	if s.clean > 0 {
		s.Logf("swarm: %s: %s, %.2f times the clean run", what, r.took, float64(r.took)/float64(s.clean))
	}
	s.judge(h, p)
	if after != nil {
		after(h, p)
	}
	s.must(s.lan.Remove(h))
	return r.took
}

// judge checks the strikes, bans and wrong NARs that the fetching machine has recorded.
func (s *swarm) judge(h *lan.Host, p *lan.Process) {
	s.Helper()
	log, err := p.Log()
	s.must(err)
	about := func(what, id string) (n int) {
		for line := range strings.Lines(log) {
			if strings.Contains(line, what) && strings.Contains(line, id) {
				n++
			}
		}
		return n
	}
	status := s.status(h)
	for _, id := range s.honest {
		if n := about("neighbour broke the protocol", id) + about("neighbour sent a wrong NAR", id); n > 0 {
			s.Errorf("%s: the honest %s was struck, or found to send wrong NARs, %d times", h.Name, id, n)
		}
	}
	for _, l := range s.liars {
		lies, bans := about("neighbour broke the protocol", l.id), about("neighbour banned", l.id)
		banned := isBanned(status, l.id)
		offences, err := l.proc.Log()
		s.must(err)
		wrong, aside := about("neighbour sent a wrong NAR", l.id), about("neighbour is set aside", l.id)
		s.Logf("%s: %s, %d offences in all: %d lies found, %d bans, %d wrong NARs, set aside %d times", h.Name, l.fault,
			strings.Count(offences, "\noffence "), lies, bans, wrong, aside)
		if wrong >= maxLies && aside == 0 && !banned {
			s.Errorf("%s: %s sent %d wrong NARs and is not set aside", h.Name, l.id, wrong)
		}
		if lies > maxLies || lies >= maxLies && !banned || banned && bans == 0 {
			s.Errorf("%s: %s lied %d times, banned is %v, %d lines say so; want a ban after %d lies", h.Name, l.id, lies, banned, bans,
				maxLies)
		}
	}
}

func isBanned(s lan.Status, id string) bool {
	for _, b := range s.Banned {
		if b.ID == id {
			return true
		}
	}
	return false
}

// Four liars, each another kind, among eight honest machines. The ban outlasts a restart.
func TestSwarmWithLiars(t *testing.T) {
	w := newWorld(t)
	s := newSwarm(w)
	s.add("wrong-block,zstd-bomb,truncated-block")
	s.add("false-witness,s2-lie,repeated-block")
	s.add("forged-claim,trickle,silent-block")
	s.add("false-hash-part")
	s.fetch("4 liars of all kinds", func(h *lan.Host, p *lan.Process) {
		// How often the others lie while the closure comes depends on chance. The last one lies in each answer.
		urls := absentInfos('s', 1000)
		before := s.until(h, "banned a liar", func(st lan.Status) bool {
			if len(st.Banned) > 0 {
				return true
			}
			_, _, err := h.Get(w.ctx, urls[0])
			w.must(err)
			urls = urls[1:]
			return false
		})
		s.until(h, "kept its bans", func(lan.Status) bool { _, err := h.ReadFile("/var/lib/narbor/denied.json"); return err == nil })
		s.must(p.Kill())
		s.start(h)
		now := s.neighbours(h, honestHolders)
		if len(now.Banned) != len(before.Banned) {
			t.Errorf("after a restart %v are banned, want %v", now.Banned, before.Banned)
		}
		for _, nb := range now.Neighbours {
			if isBanned(before, nb.ID) {
				t.Errorf("after a restart the liar %s is a neighbour", nb.ID)
			}
		}
	})
}

// Each fault by itself, committed by one, three and five machines among eight honest ones: for the nightly run, which
// sets NARBOR_NIGHTLY. It is no skip, which would be a failure where nothing may be left out.
func TestSwarmWithEachFault(t *testing.T) {
	if !nightly() {
		t.Log("the nightly run has this one: it takes 20 minutes")
		return
	}
	for _, fault := range hostileFaults(t) {
		t.Run(fault, func(t *testing.T) {
			s := newSwarm(newWorld(t))
			for _, n := range []int{1, 3, 5} {
				for len(s.liars) < n {
					s.add(fault)
				}
				s.fetch(fmt.Sprintf("%d of %s", n, fault), nil)
			}
		})
	}
}

// hostileFaults returns what `hostile --help` lists.
func hostileFaults(t *testing.T) (faults []string) {
	t.Helper()
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	out, err := exec.Command(filepath.Join(programs.dir, "hostile"), "--help").CombinedOutput()
	_, list, ok := strings.Cut(string(out), "faults:\n")
	if err != nil || !ok {
		t.Fatalf("hostile --help: %v\n%s", err, out)
	}
	for line := range strings.Lines(list) {
		faults = append(faults, strings.Fields(line)[0])
	}
	return faults
}
