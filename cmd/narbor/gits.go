package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/gitstore"
)

// gitRefs returns the patterns of --git-refs.
func gitRefs(c *cli.Context) (patterns []gitstore.Pattern, err error) {
	for _, text := range c.StringSlice("git-refs") {
		p, err := gitstore.ParsePattern(text)
		if err != nil {
			return nil, fmt.Errorf("--git-refs: %w", err)
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
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

// logGit logs what a look at the refs of a repository has found.
func logGit(log *zap.Logger, now gitstore.Status) {
	if now.Err != nil {
		log.Warn("a git repository is not shared as it should be", zap.String("dir", now.Dir), zap.Int("trees", now.Trees),
			zap.Error(now.Err))
		return
	}
	log.Info("a git repository is shared", zap.String("dir", now.Dir), zap.Int("trees", now.Trees), zap.Int("refused", now.Refused),
		zap.Int("waiting", now.Waiting))
}

// isGit reports whether a source is a git repository.
func (s *shares) isGit(source int) bool { return source >= len(s.sources)-len(s.gits) }

// where names a source for people.
func (s *shares) where(source int) string {
	switch {
	case source == 0:
		return store.Dir
	case s.isGit(source):
		return s.gits[source-len(s.sources)+len(s.gits)].Dir()
	}
	return s.cacheDirs[source-1]
}
