package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
	"narbor/store/statefile"
)

const (
	defaultProfileTime = 10 * time.Second
	maxProfileTime     = time.Minute
	// maxDebugReport bounds the answer, which is a third longer in JSON, below [control.MaxAnswer].
	maxDebugReport = control.MaxAnswer / 2
)

// handleDebug adds the handlers for `narbor debug`. Only root and the user that narbor runs as may use
// them, although stacks and profiles have no content of transfers. A verbose log may fill a disk.
func (s *service) handleDebug(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/goroutines", control.Change(writing(func(_ *http.Request, w io.Writer) error {
		var all bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil { // as after a panic
			return err
		}
		_, err := w.Write(all.Bytes()[:min(all.Len(), maxDebugReport)]) // the first thousands tell enough
		return err
	})))
	mux.HandleFunc("GET /debug/heap", control.Change(writing(func(_ *http.Request, w io.Writer) error {
		return pprof.Lookup("heap").WriteTo(w, 0) // the format of go tool pprof
	})))
	mux.HandleFunc("GET /debug/profile", control.Lasting(maxProfileTime, control.Change(writing(writeProfile))))
	mux.HandleFunc("PUT /debug/log", control.Change(func(r *http.Request) (any, error) {
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = s.logs.set(string(text))
		}
		if err == nil {
			s.log.Info("the level of the log was changed", zap.ByteString("level", text))
		}
		return nil, err
	}))
}

// writing returns what do writes as a [control.DebugReport].
func writing(do func(*http.Request, io.Writer) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var b bytes.Buffer
		if err := do(r, &b); err != nil {
			return nil, err
		}
		if b.Len() > maxDebugReport {
			return nil, fmt.Errorf("the answer has %s, more than %s", dashboard.Amount(int64(b.Len())), dashboard.Amount(maxDebugReport))
		}
		return control.DebugReport{Data: b.Bytes()}, nil
	}
}

// writeProfile writes a profile of the processor's time, of the duration in the query.
func writeProfile(r *http.Request, w io.Writer) error {
	d, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil || d <= 0 || d > maxProfileTime {
		return control.WithCode(fmt.Errorf("a profile takes up to %v, not %q; give for example --for 10s", maxProfileTime,
			r.URL.Query().Get("for")), control.ExitUsage)
	}
	if err := pprof.StartCPUProfile(w); err != nil {
		return control.WithCode(errors.New("another profile is being made; try again when it is done"), control.ExitTemporary)
	}
	defer pprof.StopCPUProfile()
	select {
	case <-time.After(d):
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

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
					return control.WithCode(errors.New("give a LEVEL, such as debug, or p2p=debug for libp2p's own messages"),
						control.ExitUsage)
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
	return ctl.Call(c.Context, http.MethodPut, what, body, nil)
}

// debugGet writes what the running narbor answers within a time.
func debugGet(c *cli.Context, what string, limit time.Duration, w io.Writer) error {
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	ctl.Timeout = limit
	var report control.DebugReport
	if err := ctl.Get(c.Context, what, &report); err != nil {
		return err
	}
	_, err = w.Write(report.Data)
	return err
}

func debugProfile(c *cli.Context) error {
	if c.NArg() == 0 {
		return control.WithCode(errors.New("give a FILE for the profile, such as narbor.pprof"), control.ExitUsage)
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
