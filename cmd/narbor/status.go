package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/cmd/narbor/watch"
	"narbor/store"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the narbor that runs here, and its neighbours",
		Description: "Exit code 3 means that narbor is not running, 4 that it is less use than it could be: nothing can be believed, no\n" +
			"network is used, nothing can be shared, the Nix store cannot be asked, Nix does not ask narbor, or there was no\n" +
			"room on the disk. What to do is printed at the end. To have no neighbour, or to have paused sharing, is no fault.\n\n" +
			"With --json everything is printed, for programs: the names stay what they are as long as \"schema\" does.\n\n" +
			"Examples:\n   narbor status --watch\n   narbor status --json | jq '.neighbours[].addr'\n   narbor status --json | jq -r " +
			"'.health[] | .severity + \" \" + .code'",
		Flags: append(controlFlags(),
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, EnvVars: env("watch"),
				Usage: "show it on the whole terminal and keep it up to date, until q, Esc or Ctrl-C; elsewhere print it again and again"},
			&cli.DurationFlag{Name: "every", Value: time.Second, Usage: "with --watch, the `TIME` between two looks",
				EnvVars: env("every")}),
		Action: func(c *cli.Context) error {
			ctl, err := newControl(c)
			if err != nil {
				return err
			}
			if !c.Bool("watch") {
				return showStatus(c, ctl)
			}
			if c.Duration("every") < 100*time.Millisecond {
				return exit.With(fmt.Errorf("--every %s is too often: give 100ms or more", c.Duration("every")), exit.Usage)
			}
			return watchStatus(c, ctl)
		},
	}
}

func showStatus(c *cli.Context, ctl control.Client) error {
	var st control.Status
	if err := ctl.Get(c.Context, "/status", &st); err != nil {
		return err
	}
	if err := show(c, st, func(s screen) { printStatus(st, s) }); err != nil {
		return err
	}
	if len(st.Faults()) > 0 {
		return exit.With(errors.New(""), exit.Degraded)
	}
	return nil
}

// watchStatus shows the status until the context or a key ends it, on the whole terminal if that takes escape sequences and is of
// a known kind.
func watchStatus(c *cli.Context, ctl control.Client) error {
	if canRedraw(c.App.Writer) && !c.Bool("json") {
		if terminal, err := watch.Open(); err == nil {
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP) // which would leave the terminal as it is
			defer stop()
			return watch.View{Every: c.Duration("every"), Addr: shortAddr, Colour: newScreen(c).colour, ASCII: isASCII(),
				Look: func(ctx context.Context) (st control.Status, err error) {
					err = ctl.Get(ctx, "/status", &st)
					return st, err
				},
			}.Run(ctx, terminal)
		}
	}
	return repeatStatus(c, ctl)
}

// repeatStatus prints the status until the context ends. A narbor that is being restarted is waited for; meanwhile its folders may
// be closed.
func repeatStatus(c *cli.Context, ctl control.Client) error {
	tick := time.NewTicker(c.Duration("every"))
	defer tick.Stop()
	answered := false
	for {
		err := showStatus(c, ctl)
		degraded := exit.Code(err) == exit.Degraded
		restarted := exit.Code(err) == exit.NotRunning || answered && errors.Is(err, fs.ErrPermission)
		answered = answered || err == nil || degraded
		switch {
		case restarted:
			fmt.Fprintln(c.App.Writer, err)
		case err != nil && !degraded && c.Context.Err() == nil:
			return err
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-tick.C:
		}
		if !c.Bool("json") {
			fmt.Fprintln(c.App.Writer)
		}
	}
}

func printStatus(st control.Status, s screen) {
	s.line("narbor %s, peer %s, up %s", st.Version, dashboard.ShortID(st.ID),
		dashboard.ShortTime(time.Duration(st.UptimeSeconds)*time.Second))
	urls := make([]string, len(st.HTTP))
	for i, addr := range st.HTTP {
		urls[i] = "http://" + addr
	}
	s.field("for Nix", "%s", strings.Join(urls, ", "))
	s.field("asked for", "%s found, %s not found; %s sent", dashboard.Count(st.Nix.NarinfoHits), dashboard.Count(st.Nix.NarinfoMisses),
		dashboard.Amount(st.Nix.NarBytesServed))
	printTransfers(st, s)
	s.field("sharing", "%s", sharingOf(st))
	if len(st.PrivateKeys) > 0 {
		s.field("private", "what only %s has signed goes %s", strings.Join(st.PrivateKeys, " or "), st.PrivateGoes())
	}
	if len(st.CircleKeys) > 0 {
		s.field("circle", "what was built here and %s has signed goes to members of the group", strings.Join(st.CircleKeys, " or "))
	}
	if st.Group {
		s.field("group", "only neighbours that know its secret are asked and answered")
	}
	printUpstreams(st, s)
	s.field("spool", "%s of %s", dashboard.Amount(st.Spool.Bytes), dashboard.Amount(st.Spool.MaxBytes))
	used, ignored := st.NetworkLines()
	s.field("network", "%s", used)
	if ignored != "" {
		s.field("ignored", "%s", ignored)
	}
	fmt.Fprintln(s)
	printStatusNeighbours(st, s)
	for _, p := range st.Away {
		s.hang("not here", fmt.Sprintf("%s, last transfer %s", dashboard.ShortID(p.Name), p.Last.Local().Format("2 January 15:04")))
	}
	for _, o := range st.OtherGroup {
		s.hang("other group", fmt.Sprintf("%s at %s, which is neither asked nor answered", dashboard.ShortID(o.ID), shortAddr(o.Addr)))
	}
	for _, b := range st.Banned {
		s.hang("banned", fmt.Sprintf("%s until %s for strikes, the last: %s", dashboard.ShortID(b.ID), b.Until.Local().Format("15:04"),
			b.Reason))
	}
	for _, n := range st.Neighbours {
		if n.Aside != "" {
			s.hang("set aside", fmt.Sprintf("%s until %s: it %s", dashboard.ShortID(n.ID), n.AsideUntil.Local().Format("15:04"), n.Aside))
		}
	}
	if st.Sharing != "none" {
		fmt.Fprintln(s)
		kinds := shareKinds(st) // the first, of public keys, is shown without a question, too
		asked := slices.DeleteFunc(kinds[1:], func(k dashboard.ShareKind) bool { return k.Asked == 0 && k.Sent == 0 })
		printKinds(append(kinds[:1], asked...), s)
	}
	printFaults(st, s)
}

func printTransfers(st control.Status, s screen) {
	if part, rest := dashboard.MonthText(st.Month); part != "" {
		s.field("saved", "%s %s", part, rest)
	}
	if st.LastUpdate != nil {
		s.field("update", "%s", dashboard.UpdateText(*st.LastUpdate, time.Now(), dashboard.NamesOf(st).Of))
	}
	now := "nothing moves"
	if n := len(st.Now); n > 0 {
		now = dashboard.Plural(n, "transfer") + " under way"
	}
	s.field("now", "%s", cmp.Or(dashboard.RatesText(st.Rates), now))
}

// printFaults prints the problems to fix. Other notes about health are above them, or on the page.
func printFaults(st control.Status, s screen) {
	const most = 3
	faults := st.Faults()
	for i, h := range faults[:min(len(faults), most)] {
		if i == 0 {
			fmt.Fprintln(s)
		}
		s.hang(s.mark(h.Severity), h.Title+". "+h.Fix)
		if h.Command != "" {
			fmt.Fprintf(s, "     %s\n", h.Command)
		}
	}
	if more := len(faults) - most; more > 0 {
		fmt.Fprintf(s, "and %d more: narbor doctor\n", more)
	}
}

func printStatusNeighbours(st control.Status, s screen) {
	if len(st.Neighbours) == 0 && !st.MDNS {
		fmt.Fprintln(s, "No neighbours yet. Multicast is turned off by --no-mdns, so narbor finds")
		fmt.Fprintln(s, "only peers that are named: narbor peers add ADDRESS")
		return
	}
	if len(st.Neighbours) == 0 {
		fmt.Fprintln(s, "No neighbours yet. Is narbor running on another machine of this network?")
		fmt.Fprintln(s, "`narbor doctor` finds out why.")
		return
	}
	header, drop := []string{"NEIGHBOUR", "ADDRESS", "FOUND BY", ">FOR", ">FROM IT", ">TO IT", ""}, []int{2, 3, 5, 4, 1}
	named := len(dashboard.NamesOf(st)) > 0
	if named {
		header, drop = slices.Insert(header, 1, "NAME"), []int{3, 4, 6, 5, 2, 1}
		s.cut = true // with names, no table of a usual width holds all
	}
	var rows [][]string
	for _, n := range st.Neighbours {
		strikes := ""
		if n.Strikes > 0 {
			strikes = dashboard.Plural(int(n.Strikes), "strike")
		} else if n.Aside != "" {
			strikes = "set aside"
		}
		row := []string{dashboard.ShortID(n.ID), shortAddr(n.Addr), n.Via,
			dashboard.ShortTime(time.Duration(n.ConnectedSeconds) * time.Second),
			dashboard.Amount(n.BytesReceived), dashboard.Amount(n.BytesSent), strikes}
		if named {
			row = slices.Insert(row, 1, dashboard.NameText(n.Name))
		}
		rows = append(rows, row)
	}
	s.table(header, rows, drop...)
	if named {
		fmt.Fprintln(s, dashboard.NamesNote)
	}
}

func printUpstreams(st control.Status, s screen) {
	for i, u := range st.Upstreams {
		state := ""
		if u.Down {
			state = " " + s.paint(yellow, "does not answer") + "; it is tried again by itself"
		}
		s.field(map[bool]string{true: "upstream"}[i == 0], "%s%s", u.URL, state)
	}
	if len(st.Upstreams) == 0 {
		return
	}
	s.field("received", "%s from neighbours; from the internet %s by this machine and %s by others for it",
		dashboard.Amount(st.Received[store.FromNeighbours]), dashboard.Amount(st.Received[store.FromInternet]),
		dashboard.Amount(st.Received[store.FromOthers]))
	switch {
	case st.Alone != "":
		s.field("for others", "nothing is downloaded: %s", st.Alone)
	case st.BudgetLeft <= 0:
		s.field("for others", "%s downloaded; today's --upstream-budget is used up", dashboard.Amount(st.ForOthers))
	default:
		s.field("for others", "%s downloaded, and up to %s more today; %s for this machine", dashboard.Amount(st.ForOthers),
			dashboard.Amount(st.BudgetLeft),
			proxies(st.Proxies))
	}
}

func proxies(n int) string {
	switch n {
	case 0:
		return "no neighbour downloads"
	case 1:
		return "1 neighbour downloads"
	}
	return dashboard.Plural(n, "neighbour") + " download"
}
