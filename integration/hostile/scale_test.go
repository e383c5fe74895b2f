package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p"
	"narbor/p2p/discovery"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// simKept is the number of neighbours that a machine keeps in the nightly form, as in production. shortKept is the
// number in the short form, so that fewer machines suffice to exceed it.
const simKept, shortKept = 64, 8

// visitsPerSecond is the rate of a machine's probe dials to non-neighbours, after a burst of visitsAtOnce.
const visitsPerSecond, visitsAtOnce = 32, 64

// A simScale is a LAN of many machines, each of which has the announcements of all others.
type simScale struct {
	*simWorld
	nodes []*simNode
	own   []*store.Mem // the paths that each shares
}

// newScale starts all machines at once and waits until they have made their first connections.
func newScale(t testing.TB, hosts, kept int) *simScale {
	s := &simScale{simWorld: emptyWorld(t, 1)}
	for i := range hosts {
		own := new(store.Mem)
		s.own = append(s.own, own)
		s.nodes = append(s.nodes, s.start(i+1, kept, own))
	}
	for _, a := range s.nodes {
		for _, i := range s.rng.Perm(hosts) {
			if b := s.nodes[i]; a != b {
				a.machine.found <- b.machine.entry(b.id)
			}
		}
	}
	time.Sleep(time.Minute)
	return s
}

func (s *simScale) start(number, kept int, share store.Source) *simNode {
	spool, err := spool.Open(spool.Config{Dir: s.t.TempDir(), MinFree: -1})
	if err != nil {
		s.t.Fatal(err)
	}
	n := &simNode{machine: s.lan.add(fmt.Sprintf("10.0.%d.%d", number>>8, number&255), honestLag, simRate), spool: spool}
	cfg := n.machine.config()
	cfg.Kept = kept
	if n.Node, err = p2p.New(p2p.Config{Host: transport.Config{Identity: s.identity()},
		Discovery: discovery.Config{MDNS: true, Net: cfg},
		Sharing:   p2p.SharingConfig{Sources: []store.Source{share}, Policy: trust.Policy{Keys: s.keys}},
		Trusted:   s.keys,
		Spool:     spool}); err != nil {
		s.t.Fatal(err)
	}
	if n.id, err = peer.Decode(n.Status().ID); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			s.t.Errorf("Run of %s = %v", n.machine.addr, err)
		}
	})
	s.ended = append(s.ended, func() {
		cancel()
		running.Wait()
		spool.Close()
	})
	return n
}

func (s *simScale) end() {
	var ending sync.WaitGroup
	for _, end := range s.ended {
		ending.Go(end)
	}
	ending.Wait()
}

func (n *simNode) isNeighbour(id peer.ID) bool {
	return slices.ContainsFunc(n.Status().Neighbours, func(s p2p.NeighbourStatus) bool { return s.ID == id.String() })
}

// carried counts the bytes that went to a machine and came from it.
func (m *simMachine) carried() (sum int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		for _, p := range []*pipe{c.in, c.out} {
			p.mu.Lock()
			sum += p.carried
			p.mu.Unlock()
		}
	}
	return sum
}

// neighbours returns the machines' numbers of neighbours, sorted.
func (s *simScale) neighbours() []int {
	var all []int
	for _, n := range s.nodes {
		all = append(all, len(n.Status().Neighbours))
	}
	slices.Sort(all)
	return all
}

// A search is the result of looking up a path that only one non-neighbour has.
type search struct {
	took  time.Duration
	bytes int64 // to and from the searching machine, including probe dials
}

// search lets a machine look up p repeatedly, as Nix does while it walks a closure, until a lookup succeeds.
func (s *simScale) search(asker *simNode, p simPath) (r search, err error) {
	began, before := time.Now(), asker.machine.carried()
	for ; time.Since(began) < 5*time.Minute; time.Sleep(50 * time.Millisecond) {
		if _, err = asker.Lookup(s.t.Context(), p.info.Path.HashPart()); err == nil {
			return search{time.Since(began), asker.machine.carried() - before}, nil
		}
	}
	return r, err
}

// searches lets n machines search in turn, each for a path of a non-neighbour. It skips machines that are connected to
// all others.
func (s *simScale) searches(n int) (all []search) {
	for i := range min(n, len(s.nodes)) {
		asker := s.nodes[i]
		p := s.path(fmt.Sprintf("only%d", i), 1)
		for j := len(s.nodes) - 1; j > i; j-- {
			if !asker.isNeighbour(s.nodes[j].id) {
				s.own[j].Add(p.info, p.nar)
				r, err := s.search(asker, p)
				if err != nil {
					s.t.Errorf("%s does not find what %s has: %v", asker.machine.addr, s.nodes[j].machine.addr, err)
				}
				if !asker.isNeighbour(s.nodes[j].id) {
					s.t.Errorf("%s has what %s wanted, and is no neighbour", s.nodes[j].machine.addr, asker.machine.addr)
				}
				all = append(all, r)
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b search) int { return int(a.took - b.took) })
	return all
}

// missCost returns the number of bytes to and from a machine that looks up one path without a holder. Keep-alives do
// not count: the lookup is shorter than their interval.
func (s *simScale) missCost() int64 {
	asker := s.nodes[0]
	p := s.path("nowhere", 1)
	asker.Lookup(s.t.Context(), s.path("before", 1).info.Path.HashPart()) // opens the streams
	time.Sleep(3 * time.Minute)                                           // until the probe dials end
	before := asker.machine.carried()
	asker.Lookup(s.t.Context(), p.info.Path.HashPart())
	return asker.machine.carried() - before
}

// TestManyMachines checks that on a LAN with more machines than a machine keeps connections to, each machine's number
// of connections is bounded, and each finds the only holder of a path in time.
func TestManyMachines(t *testing.T) {
	sizes, kept, searches := []int{shortKept, 100}, shortKept, 6
	if os.Getenv("NARBOR_NIGHTLY") != "" {
		sizes, kept, searches = []int{10, 50, 100, 200}, simKept, 12
	}
	t.Log("hosts  connections mean/max  bytes of a miss  only holder found after median/worst  bytes of that")
	for _, hosts := range sizes {
		synctest.Test(t, func(t *testing.T) {
			s := newScale(t, hosts, kept)
			defer s.end()
			before := s.neighbours()
			cost := s.missCost()
			found := s.searches(searches)
			time.Sleep(10 * time.Second) // until the probe dials end
			after := s.neighbours()
			line := fmt.Sprintf("%5d  %6.1f / %d (%.1f / %d at last)  %d",
				hosts, mean(before), before[hosts-1], mean(after), after[hosts-1], cost)
			if len(found) > 0 {
				line += fmt.Sprintf("  %v / %v  %d", found[len(found)/2].took, found[len(found)-1].took, found[len(found)/2].bytes)
			}
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			t.Logf("%s  (%d MiB of heap)", line, mem.HeapInuse>>20)
			if least := min(hosts-1, kept); before[0] < least*3/4 || mean(before) > 1.5*float64(least) || before[hosts-1] > 3*least {
				t.Errorf("of %d machines each has %d to %d neighbours, %.1f in the mean; want about %d",
					hosts, before[0], before[hosts-1], mean(before), least)
			}
			if mean(after) > mean(before)+3 {
				t.Errorf("of %d machines each has %.1f neighbours after searches, %.1f before", hosts, mean(after), mean(before))
			}
			limit := 3*time.Second + time.Duration(max(0, hosts-visitsAtOnce))*time.Second/visitsPerSecond
			if n := len(found); n > 0 && found[n-1].took > limit {
				t.Errorf("of %d machines one found the only holder after %v, want %v", hosts, found[n-1].took, limit)
			}
			if hosts > 2*kept && len(found) < searches {
				t.Errorf("of %d machines only %d had a non-neighbour: the test proves nothing", hosts, len(found))
			}
		})
	}
}

// A visit lasts for two seconds at most. Neither side counts it as a neighbour that stays, unless it was useful.
func TestVisitsArePassing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScale(t, 3*shortKept, shortKept)
		defer s.end()
		time.Sleep(discovery.VisitTime)
		asker := s.nodes[0]
		before := map[string]bool{asker.id.String(): true}
		for _, nb := range asker.Status().Neighbours {
			before[nb.ID] = true
			if nb.Passing {
				t.Errorf("the neighbour %s, connected for %d s, is said to be passing", nb.ID, nb.ConnectedSeconds)
			}
		}
		asker.Lookup(t.Context(), s.path("nowhere", 1).info.Path.HashPart())
		visited, visitors := 0, 0
		for range 150 {
			time.Sleep(honestLag)
			for _, nb := range asker.Status().Neighbours {
				if before[nb.ID] {
					continue
				}
				visited++
				if !nb.Passing {
					t.Errorf("%s is visited, and not said to be passing", nb.ID)
				}
			}
			for _, n := range s.nodes {
				for _, nb := range n.Status().Neighbours {
					if before[n.id.String()] || nb.ID != asker.id.String() {
						continue
					}
					visitors++
					if !nb.Passing {
						t.Errorf("%s is visited, and does not say that the visitor is passing", n.machine.addr)
					}
				}
			}
		}
		if visited == 0 || visitors == 0 {
			t.Fatal("no visit was seen: the test proves nothing")
		}
		if found := s.searches(1); len(found) != 1 {
			t.Fatal("no non-neighbour had a path: the test proves nothing")
		}
		time.Sleep(discovery.VisitTime)
		for _, nb := range asker.Status().Neighbours {
			if nb.Passing {
				t.Errorf("%s is said to be passing after visits", nb.ID)
			}
		}
	})
}

func mean(ns []int) float64 {
	sum := 0
	for _, n := range ns {
		sum += n
	}
	return float64(sum) / float64(len(ns))
}
