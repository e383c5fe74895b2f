package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/semaphore"

	"narbor/cmd/narbor/control"
	"narbor/narserve"
	"narbor/narserve/dashboard"
	"narbor/p2p"
	"narbor/p2p/netmon"
	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// upstreamFlag names the caches that are asked for what no neighbour has.
func upstreamFlag() cli.Flag {
	return listFlag("upstream", categoryNet, "fetch from this cache `URL`, such as https://cache.nixos.org, what no neighbour has; its "+
		"keys must be trusted; repeatable, asked in that order")
}

func noCooperateFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-cooperate", Category: categoryNet, EnvVars: env("no-cooperate"),
		Usage: "ask upstreams for this machine alone, and no neighbour to ask its own: each machine then downloads everything"}
}

func upstreamBudgetFlag() cli.Flag {
	return stringFlag("upstream-budget", "50GiB", categoryNet,
		"download for neighbours at most this `AMOUNT` of archives a day, for one neighbour at most half of the rest; 0 is --no-cooperate")
}

// openUpstreams opens the caches of --upstream. What they said is kept below dir, and that of others is deleted; with
// "" nothing is kept.
func openUpstreams(c *cli.Context, dir string) (ups []*upstream.Cache, err error) {
	defer func() {
		if err != nil {
			closeUpstreams(ups)
			ups = nil
		}
	}()
	kept, memory := map[string]bool{}, semaphore.NewWeighted(upstream.MaxUnpackMemory)
	for _, url := range c.StringSlice("upstream") {
		sum := sha256.Sum256([]byte(url))
		name := hex.EncodeToString(sum[:8])
		cfg := upstream.Config{URL: url, Agent: narserve.AgentPrefix + version, Memory: memory}
		if dir != "" {
			cfg.Kept = filepath.Join(dir, name)
		}
		u, err := upstream.Open(cfg)
		if err != nil {
			return ups, control.WithCode(fmt.Errorf("--upstream: %w", err), control.ExitUsage)
		}
		kept[name] = true
		ups = append(ups, u)
	}
	others, _ := os.ReadDir(dir) // it need not be there, or given
	for _, e := range others {
		if !kept[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return ups, err
			}
		}
	}
	return ups, nil
}

func closeUpstreams(ups []*upstream.Cache) {
	for _, u := range ups {
		_ = u.Close() // the error loses nothing: all that is kept has been written
	}
}

// askUpstream returns the lookup of narserve for paths that neither this machine nor a neighbour has; nil if there is
// no upstream.
func (s *service) askUpstream() func(context.Context, store.HashPart) (trust.Mapping, error) {
	if len(s.upstreams) == 0 {
		return nil
	}
	return s.node.LookupUpstream
}

// cooperate opens the upstreams, and sets the limits of downloads for neighbours.
func (s *service) cooperate(c *cli.Context, cfg *p2p.Config) (err error) {
	if s.upstreams, err = openUpstreams(c, s.state.file("upstreams")); err != nil {
		return err
	}
	cfg.Upstreams, cfg.PowerSupplies = s.upstreams, netmon.PowerSupplies
	cfg.UpstreamBudget, err = size(c, "upstream-budget")
	cfg.NoCooperate = c.Bool("no-cooperate") || cfg.UpstreamBudget == 0
	return err
}

// printUpstreams prints the caches that are asked, and the amounts received from each kind of source and for others.
func printUpstreams(st control.Status, s screen) {
	for i, u := range st.Upstreams {
		state := ""
		if u.Down {
			state = " " + s.paint(yellow, "does not answer") + "; it is tried again by itself"
		}
		s.field(map[bool]string{true: "upstream"}[i == 0], "%s%s", u.URL, state)
	}
	if len(st.Upstreams) == 0 {
		return
	}
	s.field("received", "%s from neighbours; from the internet %s by this machine and %s by others for it",
		dashboard.Amount(st.Received[store.FromNeighbours]), dashboard.Amount(st.Received[store.FromInternet]),
		dashboard.Amount(st.Received[store.FromOthers]))
	switch {
	case st.Alone != "":
		s.field("for others", "nothing is downloaded: %s", st.Alone)
	case st.BudgetLeft <= 0:
		s.field("for others", "%s downloaded; today's --upstream-budget is used up", dashboard.Amount(st.ForOthers))
	default:
		s.field("for others", "%s downloaded, and up to %s more today; %s for this machine", dashboard.Amount(st.ForOthers),
			dashboard.Amount(st.BudgetLeft),
			helping(st.Helpers))
	}
}

// helping returns how many neighbours download for this machine.
func helping(n int) string {
	switch n {
	case 0:
		return "no neighbour downloads"
	case 1:
		return "1 neighbour downloads"
	}
	return dashboard.Plural(n, "neighbour") + " download"
}

// whyUpstream returns the peer that is elected to ask the upstreams, and if ask is true, also their answer. It returns
// nil if there are none.
func (s *service) whyUpstream(ctx context.Context, hp store.HashPart, ask bool) *control.WhyUpstream {
	if len(s.upstreams) == 0 {
		return nil
	}
	w := &control.WhyUpstream{Election: s.node.Elect(hp), Asked: ask}
	if !ask {
		return w
	}
	start := time.Now()
	m, err := s.node.LookupUpstream(ctx, hp)
	w.Millis = float64(time.Since(start).Microseconds()) / 1000
	switch {
	case err == nil:
		w.Has, w.SignedBy, w.NarHash, w.NarSize = true, m.SignedBy(), m.NarHash().String(), m.NarSize()
	case errors.Is(err, store.ErrUnreadable):
		w.Problem, w.Unreadable = err.Error(), true
	case !errors.Is(err, store.ErrNotFound) || errors.Is(err, trust.ErrUntrusted) || errors.Is(err, trust.ErrForged):
		w.Problem = err.Error()
	}
	return w
}

func printWhyUpstream(w control.Why, s screen) {
	if w.Upstream == nil {
		return
	}
	u := *w.Upstream
	switch {
	case u.Has:
		s.field("upstream", "has it, %s, %s (%.1f ms)", dashboard.Amount(u.NarSize), signedBy(p2p.Answer{SignedBy: u.SignedBy}), u.Millis)
	case u.Problem != "":
		s.field("upstream", "%s", strings.TrimPrefix(u.Problem, "upstream "))
	case u.Asked:
		s.field("upstream", "does not have it (%.1f ms)", u.Millis)
	default:
		s.field("upstream", "not asked: there is no need")
	}
	switch e := u.Election; {
	case e.Alone != "":
		s.field("elected", "this machine asks and downloads for itself: %s", e.Alone)
	case e.Elected == "":
		s.field("elected", "this machine, to ask and download for all: it has the highest score of %d for this path", e.Of())
	default:
		s.field("elected", "neighbour %s, to ask and download for all: it has the highest score of %d for this path; if it makes no "+
			"progress for %.0f s, this machine does it itself",
			dashboard.ShortID(e.Elected), e.Of(), e.Patience)
	}
	for _, c := range u.Election.Scores {
		if c.Out != "" {
			s.field("", "%s is left out: %s", dashboard.ShortID(c.ID), c.Out)
		}
	}
	if u.Election.Refuses != "" && u.Election.Refuses != u.Election.Alone {
		s.field("", "for others this machine downloads nothing: %s", u.Election.Refuses)
	}
}
