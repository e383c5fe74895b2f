// Command narbor lets a Nix machine ask the machines around it before it asks the internet.
//
// `narbor run` is the service: it finds neighbours, shares with them what an upstream has signed, and serves what
// they have to Nix as a binary cache on the loopback interface. The other commands look at a running one, or fetch
// without one. See `narbor --help`.
package main

import (
	"context"
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

	"narbor/cmd/narbor/exit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args, os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	if err.Error() != "" { // it was told by what was printed
		fmt.Fprintln(os.Stderr, "narbor:", inLocale(err.Error()))
	}
	os.Exit(exit.Code(err))
}

// run is the program: tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	inherited, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("sockets from systemd: %w", err)
	}
	inherited = slices.DeleteFunc(inherited, func(l net.Listener) bool { return l == nil })
	err = runApp(ctx, newApp(stdout, stderr, inherited), args)
	if err != nil && ctx.Err() == nil && len(inherited) > 0 {
		return answerNotFound(ctx, stderr, inherited, err)
	}
	return err
}

func runApp(ctx context.Context, app *cli.App, args []string) error {
	if len(args) > 1 && args[1] == completeCommand {
		return complete(ctx, app, args[2:])
	}
	args, err := arrange(app, args)
	if err != nil {
		return err
	}
	return app.RunContext(ctx, args)
}

func newApp(stdout, stderr io.Writer, inherited []net.Listener) *cli.App {
	app := &cli.App{
		Name:  "narbor",
		Usage: "NARs from your neighbours: Nix asks the machines around it before the internet",
		Description: "Start it on two machines and point Nix at it with one line in nix.conf; they share. No server, no\n" +
			"keys to exchange, no addresses to type. What a neighbour sends is believed only if an upstream that\n" +
			"this machine's Nix trusts has signed it.",
		Version:        version,
		Writer:         stdout,
		ErrWriter:      stderr,
		ExitErrHandler: func(*cli.Context, error) {},
		Suggest:        true,
		Commands:       commands(inherited),
		OnUsageError:   usageError,
	}
	setUp(app.Commands)
	if isASCII() {
		helpInASCII(app.Commands)
	}
	return app
}

// commands are all that narbor can do, in the order of its help.
func commands(inherited []net.Listener) []*cli.Command {
	return []*cli.Command{
		runCommand(inherited),
		demoCommand(),
		statusCommand(),
		peersCommand(),
		pingCommand(),
		whyCommand(),
		statsCommand(),
		doctorCommand(),
		bugreportCommand(),
		setupCommand(),
		unsetupCommand(),
		fetchCommand(),
		shareCommand(),
		keysCommand(),
		circleCommand(),
		waitCommand(),
		refreshCommand(),
		configCommand(),
		debugCommand(),
		completionCommand(),
		manCommand(),
		versionCommand(),
	}
}

// setUp makes all commands alike: wrong usage has an exit code of its own, surplus arguments are errors, and help does
// not print false as the default of a flag.
func setUp(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usageError
		c.Action = counted(c, c.Action)
		for _, f := range c.Flags {
			if f, ok := f.(*cli.BoolFlag); ok {
				f.DisableDefaultText = true
			}
		}
		setUp(c.Subcommands)
	}
}

func helpInASCII(commands []*cli.Command) {
	for _, c := range commands {
		c.Usage, c.ArgsUsage, c.Description = asciiOf(c.Usage), asciiOf(c.ArgsUsage), asciiOf(c.Description)
		helpInASCII(c.Subcommands)
	}
}

// counted makes an action fail if it is given more arguments than the command's ArgsUsage says.
func counted(cmd *cli.Command, do cli.ActionFunc) cli.ActionFunc {
	most, parent := 0, len(cmd.Subcommands) > 0 // not counting help, which the cli package adds
	switch {
	case strings.Contains(cmd.ArgsUsage, "…"):
		return do
	case cmd.ArgsUsage != "":
		most = 1
	}
	return func(c *cli.Context) error {
		switch {
		case c.NArg() > most && parent:
			return exit.With(fmt.Errorf("there is no command %q; see narbor %s --help", c.Args().First(), cmd.Name),
				exit.Usage)
		case c.NArg() > most && most == 0:
			return exit.With(fmt.Errorf("%s takes no arguments, but got %q", cmd.Name, c.Args().First()), exit.Usage)
		case c.NArg() > most:
			return exit.With(fmt.Errorf("%s takes one %s, but got %q", cmd.Name, cmd.ArgsUsage, c.Args().Slice()), exit.Usage)
		case do == nil:
			return cli.ShowSubcommandHelp(c)
		}
		return do(c)
	}
}

func usageError(_ *cli.Context, err error, _ bool) error {
	hint := ""
	if strings.Contains(err.Error(), "parse error") && strings.Contains(err.Error(), "invalid value") {
		for _, f := range []string{"for", "every", "timeout"} { // the flags that take a time
			if strings.Contains(err.Error(), "flag -"+f+":") {
				hint = ": give a time such as 45m or 1h30m"
			}
		}
	}
	return exit.With(fmt.Errorf("%w%s; see --help", err, hint), exit.Usage)
}
