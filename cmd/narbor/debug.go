package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/store/statefile"
)

const defaultProfileTime, maxProfileTime = 10 * time.Second, time.Minute

func debugCommand() *cli.Command {
	return &cli.Command{
		Name:  "debug",
		Usage: "look into the running narbor: goroutines, profiles, the level of its log",
		Description: "For work on narbor, and for reports that it hangs or takes too much time or memory. Only root and\n" +
			"the user that narbor runs as may ask.\n\n" +
			"Example: narbor debug profile --for 10s narbor.pprof",
		Subcommands: []*cli.Command{{
			Name:   "goroutines",
			Usage:  "print the stack of every goroutine",
			Flags:  whereFlags(),
			Action: func(c *cli.Context) error { return debugGet(c, "/debug/goroutines", control.Timeout, c.App.Writer) },
		}, {
			Name:      "profile",
			Usage:     "write a profile for `go tool pprof`",
			ArgsUsage: "FILE",
			Flags: append(whereFlags(),
				&cli.DurationFlag{Name: "for", Value: defaultProfileTime,
					Usage: fmt.Sprintf("how long processor time is measured, up to %v", maxProfileTime)},
				&cli.BoolFlag{Name: "heap", Usage: "memory in use instead of processor time"}),
			Action: debugProfile,
		}, {
			Name:      "log",
			Usage:     "change the level of the log until narbor stops",
			ArgsUsage: "LEVEL",
			Description: "LEVEL is debug, info, warn or error. p2p=LEVEL is that of libp2p's own messages, for which p2p=off is\n" +
				"the default. --log-level and --log set both at the start.",
			Flags: whereFlags(),
			Action: func(c *cli.Context) error {
				if c.NArg() == 0 {
					return exit.With(errors.New("give a LEVEL, such as debug, or p2p=debug for libp2p's own messages"),
						exit.Usage)
				}
				return controlPut(c, "/debug/log", c.Args().First())
			},
		}},
	}
}

func controlPut(c *cli.Context, what, body string) error {
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	return ctl.Put(c.Context, what, body)
}

// debugGet writes what the running narbor answers within a time.
func debugGet(c *cli.Context, what string, limit time.Duration, w io.Writer) error {
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	ctl.Timeout = limit
	var report []byte
	if err := ctl.Get(c.Context, what, &report); err != nil {
		return err
	}
	_, err = w.Write(report)
	return err
}

func debugProfile(c *cli.Context) error {
	if c.NArg() == 0 {
		return exit.With(errors.New("give a FILE for the profile, such as narbor.pprof"), exit.Usage)
	}
	what, limit := "/debug/heap", control.Timeout
	if !c.Bool("heap") {
		what, limit = "/debug/profile?for="+c.Duration("for").String(), c.Duration("for")+control.Timeout
	}
	var b bytes.Buffer
	if err := debugGet(c, what, limit, &b); err != nil {
		return err
	}
	if err := statefile.Replace(c.Args().First(), b.Bytes(), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "Look at it with: go tool pprof %s\n", c.Args().First())
	return nil
}
