// Command narbor lets a Nix machine ask the machines around it before it asks the internet.
//
// `narbor run` is the service: it finds neighbours, shares with them what an upstream has signed, and serves what
// they have to Nix as a binary cache on the loopback interface. The other commands look at a running one, or fetch
// without one. See `narbor --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/urfave/cli/v2"
)

// version is set by the linker in releases.
var version = "0.1.0-dev"

// Exit codes, beside 0 and 1.
const (
	exitUsage      = 2
	exitNotRunning = 3
	exitNotFound   = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args, os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "narbor:", err)
	code := 1
	var coded codedError
	if errors.As(err, &coded) {
		code = coded.code
	}
	os.Exit(code)
}

// A codedError makes the program end with a certain exit code.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// run is the program: tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	inherited, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("sockets from systemd: %w", err)
	}
	inherited = slices.DeleteFunc(inherited, func(l net.Listener) bool { return l == nil })
	err = runApp(ctx, args, stdout, stderr, inherited)
	if err != nil && ctx.Err() == nil && len(inherited) > 0 {
		return answerNotFound(ctx, stderr, inherited, err)
	}
	return err
}

func runApp(ctx context.Context, args []string, stdout, stderr io.Writer, inherited []net.Listener) error {
	app := &cli.App{
		Name:  "narbor",
		Usage: "NARs from your neighbours: Nix asks the machines around it before the internet",
		Description: "Start it on two machines and point Nix at it with one line in nix.conf; they share. No server, no\n" +
			"keys to exchange, no addresses to type. What a neighbour sends is believed only if an upstream that\n" +
			"this machine's Nix trusts has signed it.",
		Version:              version,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {},
		EnableBashCompletion: true,
		Suggest:              true,
		Commands:             []*cli.Command{runCommand(inherited), statusCommand(), shareCommand(), fetchCommand(), completionCommand(), versionCommand()},
		OnUsageError:         usageError,
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
	}
	if len(args) > 1 && args[1] != "" && args[1][0] != '-' {
		cmd := app.Command(args[1])
		if cmd == nil && args[1] != "help" && args[1] != "h" {
			return codedError{fmt.Errorf("there is no command %q; see narbor --help", args[1]), exitUsage}
		}
		if cmd != nil {
			args = slices.Concat(args[:2], flagsFirst(cmd.Flags, args[2:]))
		}
	}
	return app.RunContext(ctx, args)
}

// flagsFirst moves flags before the other arguments: the cli package stops looking for flags at the first argument
// that is none, but people write them last.
func flagsFirst(flags []cli.Flag, args []string) []string {
	takesValue := map[string]bool{}
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		for _, name := range f.Names() {
			takesValue[name] = ok && d.TakesValue()
		}
	}
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
		if takesValue[strings.TrimLeft(arg, "-")] && len(args) > 0 {
			first = append(first, args[0])
			args = args[1:]
		}
	}
	if len(rest) > 0 {
		first = append(first, "--")
	}
	return append(first, rest...)
}

func usageError(_ *cli.Context, err error, _ bool) error {
	return codedError{fmt.Errorf("%w; see --help", err), exitUsage}
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprintln(c.App.Writer, "narbor", version)
			return err
		},
	}
}
