package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
)

// pingTimeout bounds all of a ping; the report has the answers until then.
const pingTimeout = 20 * time.Second

func pingCommand() *cli.Command {
	return &cli.Command{
		Name:      "ping",
		Usage:     "measure the way to a neighbour: round trip, throughput, and by which address",
		ArgsUsage: "PEER",
		Description: "PEER is the end of a peer ID as `narbor status` shows it, or an address. Throughput is measured with blocks of\n" +
			"a path that the neighbour has, which are thrown away. Only root and the user that runs narbor may ping.\n\n" +
			"Exit code 5 means that there is no such neighbour, 4 that it did not always answer.\n\n" +
			"Examples:\n   narbor ping 192.168.1.5\n   narbor ping --size 64MiB …qPnWkUgR",
		Flags: append(controlFlags(),
			&cli.IntFlag{Name: "count", Aliases: []string{"c"}, Value: 5, Usage: "`NUMBER` of round trips"},
			&cli.StringFlag{Name: "size", Value: "8MiB", Usage: "`AMOUNT` to fetch for throughput; 0 is none"}),
		Action: pingPeer,
	}
}

func pingPeer(c *cli.Context) error {
	if c.NArg() != 1 {
		return exit.With(errors.New("ping takes one neighbour; `narbor peers` lists them"), exit.Usage)
	}
	n, err := size(c, "size")
	if err != nil {
		return err
	}
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	ctl.Timeout = pingTimeout + control.Timeout
	var p control.PingReport
	err = ctl.Post(c.Context, fmt.Sprintf("/ping?%s&count=%d&bytes=%d", queryOf("peer", c.Args().First()), c.Int("count"), n), &p)
	if err != nil {
		return err
	}
	err = show(c, p, func(s screen) { printPing(p, s) })
	if err == nil && p.Lost > 0 {
		err = exit.With(errors.New(""), exit.Degraded)
	}
	return err
}

func printPing(p control.PingReport, s screen) {
	s.field("neighbour", "%s, found by %s", dashboard.ShortID(p.ID), p.Via)
	s.field("address", "%s, from here %s (%s)", shortAddr(p.Addr), shortAddr(p.Local), securityName(p.Security))
	if len(p.Millis) > 0 {
		sorted := slices.Sorted(slices.Values(p.Millis))
		s.field("round trip", "%.2f ms (%.2f to %.2f, %s)", sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1],
			dashboard.Plural(len(sorted), "time"))
	}
	if p.Lost > 0 {
		s.field("lost", "%s without an answer", dashboard.Plural(p.Lost, "round trip"))
	}
	if p.Bytes > 0 && p.Seconds > 0 {
		s.field("throughput", "%s/s: %s in %.2f s, %s on the wire", dashboard.Amount(int64(float64(p.Bytes)/p.Seconds)),
			dashboard.Amount(p.Bytes), p.Seconds,
			dashboard.Amount(p.WireBytes))
		s.field("with", "%s", p.Path)
	}
	if p.Problem != "" {
		s.field("throughput", "not measured: %s", p.Problem)
	}
}

func securityName(id string) string {
	switch id {
	case "/tls/1.0.0":
		return "TCP, TLS 1.3"
	case "/noise":
		return "TCP, Noise"
	}
	return id
}
