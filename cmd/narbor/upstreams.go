package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"narbor/cmd/narbor/exit"
	"narbor/narserve"
	"narbor/store/upstream"
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
	most, err := downloadRate(c)
	if err != nil {
		return nil, err
	}
	var limit *rate.Limiter
	if most > 0 {
		limit = upstream.NewRate(most)
	}
	for _, url := range c.StringSlice("upstream") {
		sum := sha256.Sum256([]byte(url))
		name := hex.EncodeToString(sum[:8])
		cfg := upstream.Config{URL: url, Agent: narserve.AgentPrefix + version, Memory: memory, Rate: limit}
		if dir != "" {
			cfg.Kept = filepath.Join(dir, name)
		}
		u, err := upstream.Open(cfg)
		if err != nil {
			return ups, exit.With(fmt.Errorf("--upstream: %w", err), exit.Usage)
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
