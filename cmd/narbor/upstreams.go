package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"narbor/narserve"
	"narbor/p2p"
	"narbor/store"
	"narbor/trust"
)

// upstreamFlag names the caches that are asked for what no neighbour has.
func upstreamFlag() cli.Flag {
	return listFlag("upstream", categoryNet, "fetch from this cache `URL`, such as https://cache.nixos.org, what no neighbour has; its keys must be trusted; repeatable, asked in that order")
}

func noCooperateFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-cooperate", Category: categoryNet, EnvVars: env("no-cooperate"),
		Usage: "ask upstreams for this machine alone, and no neighbour to ask its own: each machine then downloads everything"}
}

func upstreamBudgetFlag() cli.Flag {
	return stringFlag("upstream-budget", "50GiB", categoryNet, "download for neighbours at most this `AMOUNT` of archives a day, half of it for one; 0 is --no-cooperate")
}

// openUpstreams opens the caches of --upstream. What they said is kept below dir, and that of others is deleted.
func openUpstreams(c *cli.Context, dir string) (ups []*store.Upstream, err error) {
	defer func() {
		if err != nil {
			closeUpstreams(ups)
			ups = nil
		}
	}()
	kept := map[string]bool{}
	for _, url := range c.StringSlice("upstream") {
		sum := sha256.Sum256([]byte(url))
		name := hex.EncodeToString(sum[:8])
		u, err := store.OpenUpstream(store.UpstreamConfig{URL: url, Agent: narserve.AgentPrefix + version, Kept: filepath.Join(dir, name)})
		if err != nil {
			return ups, codedError{fmt.Errorf("--upstream: %w", err), exitUsage}
		}
		kept[name] = true
		ups = append(ups, u)
	}
	others, _ := os.ReadDir(dir) // it need not be there
	for _, e := range others {
		if !kept[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return ups, err
			}
		}
	}
	return ups, nil
}

func closeUpstreams(ups []*store.Upstream) {
	for _, u := range ups {
		_ = u.Close() // nothing is lost: what is to be kept has been written
	}
}

// askUpstream is what narserve asks for what neither this machine nor a neighbour has; nil if there is nobody to ask.
func (s *service) askUpstream() func(context.Context, store.HashPart) (trust.Mapping, error) {
	if len(s.upstreams) == 0 {
		return nil
	}
	return s.node.LookupUpstream
}

// cooperate opens the upstreams, and says how much is done with them for neighbours.
func (s *service) cooperate(c *cli.Context, cfg *p2p.Config) (err error) {
	if s.upstreams, err = openUpstreams(c, s.state.file("upstreams")); err != nil {
		return err
	}
	cfg.Upstreams = s.upstreams
	cfg.UpstreamBudget, err = size(c, "upstream-budget")
	cfg.NoCooperate = c.Bool("no-cooperate") || cfg.UpstreamBudget == 0
	return err
}
