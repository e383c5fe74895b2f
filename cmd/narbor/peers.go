package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
)

func peersCommand() *cli.Command {
	change := func(name, usage, args, done, details string) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: args, Description: details, Flags: controlFlags(),
			Action: func(c *cli.Context) error { return changePeers(c, done) }}
	}
	return &cli.Command{
		Name:  "peers",
		Usage: "list neighbours; name, block and unblock them",
		Description: "Without a command it lists the neighbours, the named peers, and the refused ones. Changes last beyond\n" +
			"restarts. Only root and the user that runs narbor may change it.\n\n" +
			"Examples:\n   narbor peers add nas.example.org\n   narbor peers block …qPnWkUgR",
		Flags:  controlFlags(),
		Action: listPeers,
		Subcommands: []*cli.Command{
			change("add", "look for a neighbour that multicast does not find", "ADDRESS",
				"Looking for %s, from now on and after each restart.",
				"ADDRESS is a multiaddr, an IP address or a DNS name, with or without port (6273), or vsock:CID of a virtual "+
					"machine.\n\nExample: narbor peers add 192.168.7.5"),
			change("rm", "look for it no longer", "ADDRESS", "%s is not looked for any more.",
				"ADDRESS is as it was added.\n\nExample: narbor peers rm 192.168.7.5"),
			change("block", "refuse a peer for good", "PEER", "%s is refused from now on, until `narbor peers unblock`.",
				"PEER is the end of a peer ID as `narbor status` shows it, a whole one, or the address of a neighbour.\n\nExample: "+
					"narbor peers block …qPnWkUgR"),
			change("unblock", "let a peer in again, also one that is banned for strikes", "PEER", "%s may come back.",
				"Example: narbor peers unblock …qPnWkUgR"),
		},
	}
}

func changePeers(c *cli.Context, done string) error {
	if c.NArg() != 1 {
		return exit.With(fmt.Errorf("peers %s takes one %s", c.Command.Name, c.Command.ArgsUsage), exit.Usage)
	}
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	var changed struct{ Peer string }
	if err := ctl.Post(c.Context, "/peers/"+c.Command.Name+"?"+queryOf("peer", c.Args().First()), &changed); err != nil {
		return err
	}
	if c.Bool("json") {
		return listPeers(c)
	}
	newScreen(c).line(done, changed.Peer)
	return nil
}

func listPeers(c *cli.Context) error {
	l, err := askRunning[control.PeerList](c, "/peers")
	if err != nil {
		return err
	}
	return show(c, l, func(s screen) { printPeers(l, s) })
}

func printPeers(l control.PeerList, s screen) {
	if len(l.Neighbours) == 0 {
		fmt.Fprintln(s, "No neighbours. `narbor doctor` finds out why.")
	}
	for i, n := range l.Neighbours {
		if i > 0 {
			fmt.Fprintln(s)
		}
		fmt.Fprintln(s, s.paint(bold, n.ID))
		s.field("  at", "%s, found by %s, for %s", shortAddr(n.Addr), n.Via,
			dashboard.ShortTime(time.Duration(n.ConnectedSeconds)*time.Second))
		s.field("  from it", "%s in %s, %s on the wire", dashboard.Amount(n.BytesReceived),
			dashboard.Plural(int(n.BlocksReceived), "block"),
			dashboard.Amount(n.WireReceived))
		s.field("  to it", "%s in %s, %s on the wire", dashboard.Amount(n.BytesSent), dashboard.Plural(int(n.BlocksSent), "block"),
			dashboard.Amount(n.WireSent))
		if n.Strikes > 0 {
			s.field("  strikes", "%d; the third bans it for an hour", n.Strikes)
		}
	}
	if len(l.Named) > 0 {
		var rows [][]string
		for _, n := range l.Named {
			there := "not there"
			if len(n.Connected) > 0 {
				short := make([]string, len(n.Connected))
				for i, id := range n.Connected {
					short[i] = dashboard.ShortID(id)
				}
				there = strings.Join(short, " ")
			}
			rows = append(rows, []string{n.Text, namedBy(n.From), there})
		}
		fmt.Fprintln(s)
		s.table([]string{"NAMED", "BY", "THERE"}, rows, 1)
	}
	if len(l.Banned)+len(l.Blocked)+len(l.OtherGroup) > 0 {
		fmt.Fprintln(s)
	}
	printRefused(l, s)
}

func namedBy(from string) string {
	switch from {
	case "flag":
		return "--peer"
	case "kernel":
		return "narbor.peers="
	case "dns-sd":
		return "DNS"
	}
	return "peers add"
}

func printRefused(l control.PeerList, s screen) {
	for _, b := range l.Banned {
		s.hang("banned", fmt.Sprintf("%s until %s for strikes, the last: %s", dashboard.ShortID(b.ID), b.Until.Local().Format("15:04"),
			b.Reason))
	}
	for _, id := range l.Blocked {
		s.hang("blocked", id)
	}
	for _, o := range l.OtherGroup {
		s.hang("other group", fmt.Sprintf("%s at %s, which is neither asked nor answered", dashboard.ShortID(o.ID), shortAddr(o.Addr)))
	}
}
