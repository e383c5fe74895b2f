package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
)

// waitStep is the time between two queries of the status.
const waitStep = 100 * time.Millisecond

// A condition is the state that `narbor wait` waits for: narbor runs, and perhaps more.
type condition struct {
	peers   int
	settled bool
}

// parseConditions parses the values of --for; all of them must become true.
func parseConditions(texts []string) (all condition, err error) {
	for _, text := range texts {
		name, value, _ := strings.Cut(text, "=")
		switch n, err := strconv.ParseUint(value, 10, 16); {
		case text == "running":
		case text == "settled":
			all.settled = true
		case name == "peers" && err == nil:
			all.peers = max(all.peers, int(n))
		default:
			return all, fmt.Errorf("--for %.60q is none of running, settled, peers=N", text)
		}
	}
	return all, nil
}

// missing describes the parts of the condition that are not true yet; "" is none.
func (w condition) missing(st control.Status) string {
	var what []string
	if n := len(st.Neighbours); n < w.peers {
		what = append(what, fmt.Sprintf("it has %d of %d neighbours", n, w.peers))
	}
	if w.settled && !st.Settled {
		what = append(what, "it is still looking for neighbours")
	}
	return strings.Join(what, ", and ")
}

func waitCommand() *cli.Command {
	return &cli.Command{
		Name:  "wait",
		Usage: "wait until the narbor that runs here is ready",
		Description: "running: it answers. settled: those that are on the network have been found, or there are none.\n" +
			"peers=N: it has N neighbours. All that is given must be true at once.\n\n" +
			"Exit code 3 means that narbor did not run when the time was over, 75 that it did, but was not ready.\n\n" +
			"Example: narbor wait --for peers=1 --timeout 20s || echo 'from the internet, then'",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "for", Usage: "`WHAT`: running, settled or peers=N; repeatable",
				Value: cli.NewStringSlice("running"), EnvVars: env("for")},
			&cli.DurationFlag{Name: "timeout", Usage: "how `LONG` at most; 0 looks once", Value: 30 * time.Second, EnvVars: env("timeout")},
			stateFlag(), socketFlag(),
		},
		Action: func(c *cli.Context) error {
			want, err := parseConditions(c.StringSlice("for"))
			if err == nil && c.Duration("timeout") < 0 {
				err = errors.New("--timeout must not be negative")
			}
			if err != nil {
				return exit.With(err, exit.Usage)
			}
			ctl, err := newControl(c)
			if err != nil {
				return err
			}
			return want.wait(c.Context, c.Duration("timeout"), func(ctx context.Context) (st control.Status, err error) {
				err = ctl.Get(ctx, "/status", &st)
				return st, err
			})
		},
	}
}

// wait asks until the condition is true, until it can tell that it never will be, or until the time is over.
func (w condition) wait(ctx context.Context, timeout time.Duration, ask func(context.Context) (control.Status, error)) error {
	deadline := time.Now().Add(timeout)
	for {
		st, err := ask(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil: // as on a busy machine that is just starting
			err = exit.With(fmt.Errorf("narbor is too busy to answer, after %s", dashboard.ShortTime(timeout)),
				exit.Temporary)
		case err != nil && exit.Code(err) != exit.NotRunning:
			return err
		}
		if err == nil {
			missing := w.missing(st)
			if missing == "" {
				return nil
			}
			err = exit.With(fmt.Errorf("not ready after %s: %s; see `narbor status`", dashboard.ShortTime(timeout), missing),
				exit.Temporary)
		}
		if !time.Now().Add(waitStep).Before(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(waitStep):
		}
	}
}
