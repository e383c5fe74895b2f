package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/store/gitstore"
)

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

func logGit(log *zap.Logger, now gitstore.Status) {
	if now.Err != nil {
		log.Warn("a git repository is not shared as it should be", zap.String("dir", now.Dir), zap.Int("trees", now.Trees),
			zap.Error(now.Err))
		return
	}
	log.Info("a git repository is shared", zap.String("dir", now.Dir), zap.Int("trees", now.Trees), zap.Int("refused", now.Refused),
		zap.Int("waiting", now.Waiting))
}
