package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/cmd/narbor/exit"
	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/damage"
	"narbor/store/gitstore"
	"narbor/store/offered"
	"narbor/store/rebase"
)

// shares is what this machine has and may share, the Nix store first.
type shares struct {
	sources   []store.Source
	nix       *lateNix
	rebuilds  *rebase.Rebuilder // from the Nix store
	caches    []*bincache.Cache
	damage    *damage.Checker
	offered   *offered.Book // signatures that the sources lack
	cacheDirs []string
	gits      []*gitstore.Store // come last among the sources
	signers   cacheSigners
	off       bool // --share none: they are not shared until the user turns sharing on
}

// openShares opens the Nix store of this machine, its own cache directory, and those of --cache-dir. The state
// directory is for unpacking compressed archives, and for the lists of damaged paths and offered signatures.
func openShares(c *cli.Context, st state, keys *keyState, log *zap.Logger) (s *shares, err error) {
	on, err := parseShare(c.String("share"))
	if err != nil {
		return nil, exit.With(fmt.Errorf("--share %w", err), exit.Usage)
	}
	s = &shares{off: !on, nix: &lateNix{log: log}}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	s.nix.open(c.Context) // a failure is logged, and repaired by trying again
	s.damage, err = damage.Open(st.file("damaged.json"), func(d damage.Finding, sound bool) { logDamage(log, d, sound) })
	if err != nil {
		log.Warn("which paths are damaged is found out anew", zap.Error(err))
	}
	if s.offered, err = offered.Open(st.file("offered.json")); err != nil {
		log.Warn("signatures that neighbours have offered", zap.Error(err))
	}
	guarded := s.damage.Guard(s.offered.Source(s.nix), store.Dir, store.Dir)
	s.rebuilds = rebase.New(oldPaths{guarded, s.nix})
	s.sources = append(s.sources, guarded)
	s.cacheDirs = append([]string{filepath.Join(st.real, "cache")}, c.StringSlice("cache-dir")...)
	for _, cacheDir := range s.cacheDirs {
		cache, err := bincache.Open(cacheDir, st.file("unpacked"))
		if err != nil {
			return s, fmt.Errorf("cache directory %s: %w", cacheDir, err)
		}
		s.caches = append(s.caches, cache)
		s.sources = append(s.sources, s.damage.Guard(s.offered.Source(cache), cacheDir, ""))
	}
	return s, s.openGits(c, st, keys, log)
}

// somePaths are a few of this machine's store paths: a neighbour is likely to have some of them, too.
func (s *shares) somePaths(ctx context.Context) []store.HashPart {
	nix, err := s.nix.open(ctx)
	if err != nil {
		return nil
	}
	paths, err := nix.AllValidPaths(ctx)
	if err != nil {
		return nil
	}
	paths = slices.DeleteFunc(paths, func(p store.Path) bool { return strings.HasSuffix(p.Name(), ".drv") })
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	var parts []store.HashPart
	for _, p := range paths[:min(len(paths), 32)] {
		parts = append(parts, p.HashPart())
	}
	return parts
}

// oldPaths are the paths of the Nix store from which NARs are rebuilt.
type oldPaths struct {
	*damage.Source
	nix *lateNix
}

// Namesakes implements [rebase.Store].
func (o oldPaths) Namesakes(name string) []store.HashPart {
	nix, err := o.nix.open(context.Background())
	if err != nil {
		return nil
	}
	return nix.Namesakes(name)
}

func (s *shares) close() {
	if s != nil {
		for _, g := range s.gits {
			g.Close()
		}
		s.nix.close()
	}
}

// repairStore is the command that finds and repairs damaged paths of the Nix store.
const repairStore = "nix-store --verify --check-contents --repair"

func logDamage(log *zap.Logger, d damage.Finding, sound bool) {
	if sound {
		log.Info("a damaged path is sound again, or gone", zap.String("path", d.Path), zap.String("where", d.Where))
		return
	}
	fix := "delete it from " + d.Where
	if d.Where == store.Dir {
		fix = repairStore
	}
	log.Warn("a path of this machine is damaged: it is not served and not shared until it is repaired", zap.String("path", d.Path),
		zap.String("where", d.Where),
		zap.String("reason", d.Reason), zap.String("fix", fix))
}

// openGits opens the repositories of --git-dir. One that cannot be read is reported, and everything else goes on.
func (s *shares) openGits(c *cli.Context, st state, keys *keyState, log *zap.Logger) error {
	patterns, err := gitRefs(c)
	if err != nil {
		return err
	}
	for _, dir := range c.StringSlice("git-dir") {
		g, err := gitstore.Open(gitstore.Config{Dir: dir, Refs: patterns, State: st.file("git"),
			GitHashing: func() bool { return keys.settings().GitHashing },
			Changed:    func(now gitstore.Status) { logGit(log, now) }})
		if err != nil {
			log.Error("a git repository is not shared", zap.String("dir", dir), zap.Error(err))
			continue
		}
		s.gits = append(s.gits, g)
		s.sources = append(s.sources, s.damage.Guard(g, g.Dir(), ""))
	}
	return nil
}

func (s *shares) isGit(source int) bool { return source >= len(s.sources)-len(s.gits) }

func (s *shares) where(source int) string {
	switch {
	case source == 0:
		return store.Dir
	case s.isGit(source):
		return s.gits[source-len(s.sources)+len(s.gits)].Dir()
	}
	return s.cacheDirs[source-1]
}
