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
	"narbor/store"
	"narbor/trust"
)

// upstreamFlag names the caches that are asked for what no neighbour has.
func upstreamFlag() cli.Flag {
	return listFlag("upstream", categoryNet, "fetch from this cache `URL`, such as https://cache.nixos.org, what no neighbour has; its keys must be trusted; repeatable, asked in that order")
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
