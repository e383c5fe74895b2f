package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/demo"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show on this computer alone what narbor does, in ten seconds",
		Description: "It makes a few signed packages and starts four narbors on loopback ports. Three have the packages, and the fourth\n" +
			"fetches them; on the way one of the three is killed, and one serves archives that were changed. It needs neither\n" +
			"Nix nor root nor a network, takes 500 MB in the directory for temporary files, and leaves nothing behind.\n\n" +
			"Example: narbor demo --keep",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "keep", Usage: "let the narbors run on until Ctrl-C, to look at the page"}},
		Action: func(c *cli.Context) error {
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("the program's own file: %w", err)
			}
			s := newScreen(c)
			// The end of the terminal, or of the program that reads the output, must not leave files behind.
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP)
			defer stop()
			signal.Ignore(syscall.SIGPIPE)
			return demo.Run(ctx, demo.Options{Program: program, Out: s.Writer, Redraw: canRedraw(c.App.Writer) && !s.ascii,
				Keep: c.Bool("keep")})
		},
	}
}
