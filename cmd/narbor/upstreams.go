package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/semaphore"

	"narbor/cmd/narbor/control"
	"narbor/narserve"
	"narbor/p2p"
	"narbor/p2p/netmon"
	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

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
