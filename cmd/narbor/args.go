package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/exit"
)

// arrange puts the arguments into the order that the cli package wants: commands, then flags, then the rest. People
// write flags last, or before a command's command.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) < 2 || args[1] == "" || args[1][0] == '-' {
		return args, nil
	}
	cmd := app.Command(args[1])
	if cmd == nil {
		if args[1] == "help" || args[1] == "h" {
			return args, nil
		}
		return nil, exit.With(fmt.Errorf("there is no command %q; see narbor --help", args[1]), exit.Usage)
	}
	words, rest := args[:2:2], args[2:]
	for len(cmd.Subcommands) > 0 {
		n := leadingFlags(cmd.Flags, rest)
		if n == len(rest) {
			break
		}
		i := slices.IndexFunc(cmd.Subcommands, func(sub *cli.Command) bool { return sub.HasName(rest[n]) })
		if i < 0 {
			break
		}
		cmd, words = cmd.Subcommands[i], append(words, rest[n])
		rest = slices.Concat(rest[:n], rest[n+1:]) // what its parent takes, it takes too
	}
	return append(words, flagsFirst(cmd.Flags, rest)...), nil
}

func takesValue(flags []cli.Flag) map[string]bool {
	takes := map[string]bool{}
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		for _, name := range f.Names() {
			takes[name] = ok && d.TakesValue()
		}
	}
	return takes
}

// leadingFlags counts the arguments, flags and their values, before the first that is none.
func leadingFlags(flags []cli.Flag, args []string) (n int) {
	takes := takesValue(flags)
	for n < len(args) && len(args[n]) > 1 && args[n][0] == '-' && args[n] != "--" {
		if takes[strings.TrimLeft(args[n], "-")] {
			n++
		}
		n++
	}
	return min(n, len(args))
}

// flagsFirst moves flags before the other arguments: the cli package stops looking for flags at the first argument
// that is none, but people write them last.
func flagsFirst(flags []cli.Flag, args []string) []string {
	takes := takesValue(flags)
	var first, rest []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			rest = append(rest, args...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		first = append(first, arg)
		if takes[strings.TrimLeft(arg, "-")] && len(args) > 0 {
			first = append(first, args[0])
			args = args[1:]
		}
	}
	if len(rest) > 0 {
		first = append(first, "--")
	}
	return append(first, rest...)
}
