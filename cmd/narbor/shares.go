package main

import (
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/store"
)

// shares is what this machine has and may share, the Nix store first.
type shares struct {
	sources   []store.Source
	nix       *lateNix
	caches    []*store.Cache
	cacheDirs []string
	off       bool // --share none: neighbours are not told of them until somebody turns that on
}

// openShares finds the Nix store of this machine, its own cache directory in dir, and those of --cache-dir. What is
// compressed there is unpacked in scratch.
func openShares(c *cli.Context, dir, scratch string, log *zap.Logger) (s shares, err error) {
	on, err := parseShare(c.String("share"))
	if err != nil {
		return s, codedError{fmt.Errorf("--share %w", err), exitUsage}
	}
	s.off = !on
	defer func() {
		if err != nil {
			s.close()
			s = shares{}
		}
	}()
	s.nix = &lateNix{log: log}
	s.nix.open(c.Context) // a failure is logged, and repaired by trying again
	s.sources = append(s.sources, s.nix)
	s.cacheDirs = append([]string{filepath.Join(dir, "cache")}, c.StringSlice("cache-dir")...)
	for _, cacheDir := range s.cacheDirs {
		cache, err := store.OpenCache(cacheDir, scratch)
		if err != nil {
			return s, fmt.Errorf("cache directory %s: %w", cacheDir, err)
		}
		s.caches = append(s.caches, cache)
		s.sources = append(s.sources, cache)
	}
	return s, nil
}

// hasNix says whether this machine has a Nix store.
func (s shares) hasNix() bool { return s.nix != nil && s.nix.here() }

// nixProblem says why this machine's Nix store cannot be asked, if there is one.
func (s shares) nixProblem() string {
	if s.nix == nil {
		return ""
	}
	return s.nix.problem()
}

func (s shares) close() {
	if s.nix != nil {
		s.nix.close()
	}
}
