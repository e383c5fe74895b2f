package main

import (
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
)

// A misspelt variable begins with NARBOR_ and sets no flag of any command.
type misspelt struct{ name, nearest string }

// misspeltIn returns the variables of an environment that set no flag of these commands, each with the nearest name
// that sets a flag of run.
func misspeltIn(environ []string, commands []*cli.Command, run []cli.Flag) (out []misspelt) {
	known := variablesOf(commands)
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		text, ours := strings.CutPrefix(name, envPrefix)
		if !ours || slices.Contains(known, name) {
			continue
		}
		flag := strings.ToLower(strings.ReplaceAll(text, "_", "-"))
		nearest := strings.TrimPrefix(cli.SuggestFlag(run, flag, true), "--")
		if nearest == "" { // nothing is similar
			nearest = "config"
		}
		out = append(out, misspelt{name, env(nearest)[0]})
	}
	return out
}

func variablesOf(commands []*cli.Command) (names []string) {
	for _, c := range commands {
		for _, f := range c.Flags {
			if d, ok := f.(cli.DocGenerationFlag); ok {
				names = append(names, d.GetEnvVars()...)
			}
		}
		names = append(names, variablesOf(c.Subcommands)...)
	}
	return names
}

// warnOfMisspelt logs the environment variables that were meant for narbor and set nothing, and returns them.
func warnOfMisspelt(c *cli.Context, log *zap.Logger) []misspelt {
	found := misspeltIn(os.Environ(), c.App.Commands, c.Command.Flags)
	for _, m := range found {
		log.Warn("an environment variable has no effect: there is no such setting", zap.String("name", m.name),
			zap.String("nearest", m.nearest))
	}
	return found
}
