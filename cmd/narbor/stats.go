package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/narserve/stats"
	"narbor/store"
)

// mostShares is how many peers or packages are shown: one screen.
const mostShares = 20

func statsCommand() *cli.Command {
	return &cli.Command{
		Name:  "stats",
		Usage: "show how much came from the network, and what that saved",
		Description: "Accounts are kept for a year. Bytes are those of archives, uncompressed; what Nix fetched from the internet by\n" +
			"itself, and the time that was saved, are estimates. An update is what Nix got without a pause of two minutes.\n\n" +
			"Examples:\n   narbor stats --by name\n   narbor stats --json",
		Flags: append(controlFlags(), &cli.StringFlag{Name: "by", EnvVars: env("by"),
			Usage: "`WHAT` to tell apart: day, peer or name (of the package)"}),
		Action: func(c *cli.Context) error {
			if by := c.String("by"); !slices.Contains([]string{"", "day", "peer", "name"}, by) {
				return exit.With(fmt.Errorf("--by %q is none of day, peer, name", by), exit.Usage)
			}
			a, err := askRunning[stats.Account](c, "/stats")
			if err != nil {
				return err
			}
			return show(c, a, func(s screen) { printStats(s, a, c.String("by")) })
		},
	}
}

func printStats(s screen, a stats.Account, by string) {
	switch by {
	case "day":
		printDays(s, a.Days)
	case "peer":
		printShares(s, "PEER", a.Peers, dashboard.ShortID)
	case "name":
		printShares(s, "NAME", a.Names, func(name string) string { return name })
	default:
		printSums(s, a)
	}
	if a.Note != "" {
		s.hang("note", a.Note)
	}
}

func printSums(s screen, a stats.Account) {
	month := a.Sum(30)
	switch part, rest := dashboard.MonthText(month); {
	case part != "":
		fmt.Fprintf(s, "%s %s\n", s.paint(bold, part), rest)
	case month.Sent > 0:
		fmt.Fprintf(s, "%s went to neighbours in the last 30 days. Nothing has come from them yet.\n",
			s.paint(bold, dashboard.Amount(month.Sent)))
	case month.SavedOf() > 0:
		fmt.Fprintln(s, "Nothing has come from your network in the last 30 days.")
	default:
		fmt.Fprintln(s, "Nix has fetched nothing yet that narbor knows of.")
	}
	fmt.Fprintln(s)
	var rows [][]string
	for _, p := range []struct {
		name string
		days int
	}{{"today", 1}, {"7 days", 7}, {"30 days", 30}, {"all", 0}} {
		sum := a.Sum(p.days)
		rows = append(rows, append([]string{p.name}, amounts(sum)...))
	}
	s.table(statsHeader("WHEN"), rows, statsDropped...)
	if a.LastUpdate != nil {
		s.hang("last update", dashboard.UpdateText(*a.LastUpdate, time.Now(), dashboard.ShortID))
	}
	if got := month.Received; got[store.FromOthers]+got[store.FromInternet] > 0 {
		s.hang("in 30 days", fmt.Sprintf("%s neighbours had, %s neighbours downloaded for this machine, %s narbor downloaded here, %s "+
			"at least Nix did",
			dashboard.Amount(got[store.FromNeighbours]), dashboard.Amount(got[store.FromOthers]), dashboard.Amount(got[store.FromInternet]),
			dashboard.Amount(month.ByNix)))
	}
	if got := month.Received[store.FromRebuild]; got > 0 {
		s.hang("in 30 days", fmt.Sprintf("%s narbor rebuilt from other versions of the same paths in this machine's store",
			dashboard.Amount(got)))
	}
	if !a.Since.IsZero() {
		fmt.Fprintf(s, "since %s\n", a.Since.Local().Format(time.DateOnly))
	}
}

// statsDropped are the columns of [statsHeader] that a narrow terminal goes without, the first one first.
var statsDropped = []int{4, 5, 2}

func statsHeader(first string) []string {
	return []string{first, ">FROM NETWORK", ">INTERNET", ">TO OTHERS", ">PATHS", ">SAVED"}
}

func amounts(a stats.Amounts) []string {
	return []string{dashboard.Amount(a.FromNetwork()), dashboard.Amount(a.ByNix + a.Received[store.FromInternet]), dashboard.Amount(a.Sent),
		dashboard.Count(a.NARs),
		dashboard.ShortTime(time.Duration(a.SavedSeconds * float64(time.Second)))}
}

func printDays(s screen, days []stats.Day) {
	var rows [][]string
	for _, d := range slices.Backward(days) {
		rows = append(rows, append([]string{d.Date}, amounts(d.Amounts)...))
	}
	s.table(statsHeader("DAY"), rows, statsDropped...)
}

func printShares(s screen, what string, shares []stats.Share, name func(string) string) {
	var rows [][]string
	for _, sh := range shares[:min(len(shares), mostShares)] {
		rows = append(rows, []string{name(sh.Name), dashboard.Amount(sh.Received), dashboard.Amount(sh.Sent),
			sh.Last.Local().Format(time.DateOnly)})
	}
	s.table([]string{what, ">FROM NETWORK", ">TO OTHERS", "LAST"}, rows, 3)
	if more := len(shares) - mostShares; more > 0 {
		fmt.Fprintf(s, "and %d more, which --json tells\n", more)
	}
}
