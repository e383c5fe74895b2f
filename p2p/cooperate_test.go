package p2p_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"narbor/p2p"
	"narbor/p2p/proxy"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/upstream"
	"narbor/trust"
)

// cooperative starts machines that all know each other and share a web cache.
func (c *webCache) cooperative(t *testing.T, n int, edit ...func(i int, cfg *p2p.Config)) []*machine {
	t.Helper()
	var all []*machine
	for i := range n {
		with := func(cfg *p2p.Config) {
			c.with(t)(cfg)
			for _, e := range edit {
				e(i, cfg)
			}
		}
		all = append(all, c.up.newMachineAs(t, spool.Config{}, new(store.Mem), with, all...))
	}
	p2p.Eventually(t, "all neighbours of each other", func() bool {
		return !slices.ContainsFunc(all, func(m *machine) bool { return len(m.Status().Neighbours) < n-1 })
	})
	return all
}

// all lets each machine look a path up and fetch it, at the same time.
func all(t *testing.T, machines []*machine, info store.Info, nar []byte) {
	t.Helper()
	var wg sync.WaitGroup
	for _, m := range machines {
		wg.Go(func() {
			got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
			if err != nil {
				t.Errorf("LookupUpstream(%s) = %v", info.Path, err)
				return
			}
			m.fetchMapped(t, got, nar)
		})
	}
	wg.Wait()
}

// ofTimes tries something anew up to four times more, with other machines: on a busy computer, a machine that stalls is
// overtaken, and then left out for a while. try returns an error if more was asked of the upstream than it ought to be.
func ofTimes(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for range 5 {
		if err = try(); err == nil || t.Failed() {
			return
		}
		t.Log(err)
	}
	t.Error(err)
}

func TestTheLANDownloadsOnce(t *testing.T) {
	const paths = 6
	ofTimes(t, func() error {
		web := newWebCache(t, newUpstream(t))
		machines := web.cooperative(t, 4)
		for i := range paths {
			nar := noise(i, 1000+i*store.BlockSize)
			all(t, machines, web.add(t, fmt.Sprintf("p%d", i), nar), nar)
		}
		if infos, nars := web.requests(); infos > paths*3/2 || nars > paths*3/2 { // alone they ask 4 times
			return fmt.Errorf("the upstream was asked for %d narinfos and %d archives by 4 machines, want %d", infos, nars, paths)
		}
		idle := slices.DeleteFunc(machines, func(m *machine) bool { return m.Status().Supplied > 0 })
		if len(idle) >= 3 {
			return errors.New("one machine has downloaded all, want the work to be shared")
		}
		return nil
	})
}

func TestLANAsksUpstreamOnceAboutMissingPath(t *testing.T) {
	const paths = 50
	ofTimes(t, func() error {
		web := newWebCache(t, newUpstream(t))
		machines := web.cooperative(t, 3)
		for i := range paths {
			var wg sync.WaitGroup
			for _, m := range machines {
				wg.Go(func() {
					if got, err := m.LookupUpstream(t.Context(), store.HashPartFromBytes([20]byte{9, byte(i)})); !errors.Is(err,
						store.ErrNotFound) {
						t.Errorf("LookupUpstream = %v, %v, want ErrNotFound", got, err)
					}
				})
			}
			wg.Wait()
		}
		if infos, _ := web.requests(); infos > paths*3/2 { // it would be 3 for each without cooperation
			return fmt.Errorf("%d questions to the upstream about %d paths", infos, paths)
		}
		return nil
	})
}

// This machine's own upstreams may have a path that the others' lack.
func TestOnlyPeersWithSameUpstreamsAreAssignees(t *testing.T) {
	web := newWebCache(t, newUpstream(t))
	more := newWebCache(t, web.up)
	machines := web.cooperative(t, 3, func(i int, cfg *p2p.Config) {
		if i == 0 {
			both := p2p.Config{}
			more.with(t)(&both)
			cfg.Upstreams.Caches = append(cfg.Upstreams.Caches, both.Upstreams.Caches...)
		}
	})
	for i := range 20 {
		info := more.add(t, fmt.Sprintf("p%d", i), noise(i, 1000))
		if _, err := machines[0].LookupUpstream(t.Context(), info.Path.HashPart()); err != nil {
			t.Errorf("LookupUpstream of what one upstream of two has = %v", err)
		}
	}
	if e := machines[1].Assignment(store.HashPart("00000000000000000000000000000000")); e.Of() != 2 {
		t.Errorf("%d take part in the assignment of those with one upstream, want 2", e.Of())
	}
}

func TestStuckAssigneeIsOvertaken(t *testing.T) {
	t.Parallel()
	web := newWebCache(t, newUpstream(t))
	web.stuck = "stuck"
	machines := web.cooperative(t, 3, func(i int, cfg *p2p.Config) {
		if i == 0 {
			u, err := upstream.Open(upstream.Config{URL: web.URL, Agent: web.stuck})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { u.Close() })
			cfg.Upstreams.Caches = []*upstream.Cache{u}
		}
	})
	began, assigned := time.Now(), 0
	for i := 0; assigned < 4; i++ {
		nar := noise(i, 3*store.BlockSize)
		info := web.add(t, fmt.Sprintf("p%d", i), nar)
		own, with := machines[0].Assignment(info.Path.HashPart()), machines[1].Assignment(info.Path.HashPart())
		if own.Assignee == "" { // the stuck machine would do it
			assigned++
			left := slices.ContainsFunc(with.Candidates, func(c proxy.Candidate) bool { return c.ID == machines[0].id() && c.Out != "" })
			if left != (assigned > 1) {
				t.Errorf("the %d. time, the stuck machine is left out: %v", assigned, left)
			}
		}
		all(t, machines[1:2], info, nar) // the third one could overtake, and pass it on before the stuck one is given up
	}
	t.Logf("took %s", time.Since(began))
}

func TestNodeIsNotMadeToDownload(t *testing.T) {
	up := newUpstream(t)
	const size = 3 * store.BlockSize
	nar := noise(1, size)
	for name, edit := range map[string]func(cfg *p2p.Config){
		"not cooperating":           func(cfg *p2p.Config) { cfg.Upstreams.NoCooperate = true },
		"budget spent":              func(cfg *p2p.Config) { cfg.Upstreams.Budget = int64(len(nar)) },
		"sharing nothing":           func(cfg *p2p.Config) { cfg.Sharing.Off = true },
		"trusting another key":      func(cfg *p2p.Config) { cfg.Trusted, cfg.Sharing.Keys = newUpstream(t).keys, newUpstream(t).keys },
		"without upstream":          func(cfg *p2p.Config) { cfg.Upstreams.Caches = nil },
		"sharing no key's archives": func(cfg *p2p.Config) { cfg.Sharing.Keys = newUpstream(t).keys },
	} {
		t.Run(name, func(t *testing.T) {
			web := newWebCache(t, up)
			machines := web.cooperative(t, 2, func(i int, cfg *p2p.Config) {
				if i == 0 {
					edit(cfg)
				}
			})
			for i := range 6 {
				nar := noise(i, size)
				info := web.add(t, fmt.Sprintf("p%d", i), nar)
				all(t, machines[1:], info, nar)
			}
			if n := machines[0].Status().Supplied; n > 0 {
				t.Errorf("it was made to download %d bytes", n)
			}
		})
	}
}

// A ledger is an observer that adds up.
type ledger struct {
	mu       sync.Mutex // guards the rest
	received map[store.Origin]int64
	landed   int
}

func (l *ledger) Received(o store.Origin, _ trust.Mapping, _ string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received[o] += int64(n)
}

func (l *ledger) Sent(store.Path, int64, string, int) {}

func (l *ledger) Landed(trust.Mapping, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.landed++
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.landed
}

func (l *ledger) check(t *testing.T, m *machine, want map[store.Origin]int64) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range []store.Origin{store.FromNeighbours, store.FromOthers, store.FromInternet} {
		if got, status := l.received[o], m.Status().Received[o]; got != want[o] || status != got {
			t.Errorf("%d bytes are booked as from %s, %d in the status, want %d", got, o, status, want[o])
		}
	}
}

func TestWhatCameFromWhereIsBooked(t *testing.T) {
	web := newWebCache(t, newUpstream(t))
	books := []*ledger{{received: map[store.Origin]int64{}}, {received: map[store.Origin]int64{}}}
	machines := web.cooperative(t, 2, func(i int, cfg *p2p.Config) { cfg.Observer = books[i] })
	size := int64(6*store.BlockSize + 80)
	byMe, byOther := false, false
	for i := 0; !byMe || !byOther; i++ {
		nar := noise(i, int(size))
		info := web.add(t, fmt.Sprintf("p%d", i), nar)
		e, other := machines[0].Assignment(info.Path.HashPart()), machines[1].Assignment(info.Path.HashPart())
		if e.Of() != 2 || e.Candidates[0].ID != e.Assignee || (e.Assignee == "") != (other.Assignee == machines[0].id()) ||
			e.Alone+e.Refuses != "" {
			t.Fatalf("assignments differ, or are not explained: %+v, %+v", e, other)
		}
		if mine := e.Assignee == ""; mine && byMe || !mine && byOther {
			continue
		} else if mine {
			byMe = true
		} else {
			byOther = true
		}
		all(t, machines[:1], info, nar)
	}
	books[0].check(t, machines[0], map[store.Origin]int64{store.FromInternet: size, store.FromOthers: size})
	books[1].check(t, machines[1], map[store.Origin]int64{store.FromInternet: size})
	p2p.Eventually(t, "told of what landed", func() bool { return books[1].count() > 0 })
	if n, got := books[1].count(), machines[1].Status().ForOthers; n != 1 || got != size {
		t.Errorf("%d landed, %d bytes for others, want 1 and %d", n, got, size)
	}
}
