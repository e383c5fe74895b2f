package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
)

// envPrefix begins the name of each environment variable that sets a flag.
const envPrefix = "NARBOR_"

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

// misspeltHealth reports the environment variables that set nothing.
func (s *service) misspeltHealth(control.Status) *dashboard.Health {
	if len(s.misspelt) == 0 {
		return nil
	}
	var texts []string
	for _, m := range s.misspelt {
		texts = append(texts, fmt.Sprintf("%s (the nearest name is %s)", m.name, m.nearest))
	}
	return &dashboard.Health{Code: "misspelt", Severity: dashboard.SeverityWarning, Title: "Environment variables without effect",
		Text: "narbor was started with variables that set nothing: " + strings.Join(texts, ", ") + ".",
		Fix:  "Correct their names where narbor is started, or take them out. `narbor config show` lists all settings."}
}

// variablesOf returns the environment variables of all flags of commands, and of their subcommands.
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

// warnOfMisspelt logs the environment variables that were meant for narbor and set nothing, and keeps them for status.
func (s *service) warnOfMisspelt(c *cli.Context) {
	s.misspelt = misspeltIn(os.Environ(), c.App.Commands, c.Command.Flags)
	for _, m := range s.misspelt {
		s.log.Warn("an environment variable has no effect: there is no such setting", zap.String("name", m.name),
			zap.String("nearest", m.nearest))
	}
}
