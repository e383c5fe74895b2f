package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"narbor/narserve"
	"narbor/p2p"
	"narbor/store"
)

// Status is what `narbor status --json` prints. Schema changes with the meaning of a field, not with a new one.
type Status struct {
	Schema        int    `json:"schema"`
	Version       string `json:"version"`
	UptimeSeconds int64  `json:"uptimeSeconds"`
	p2p.Status
	HTTP      []string       `json:"http"`  // where Nix asks
	Store     string         `json:"store"` // "" if there is no Nix
	CacheDirs []string       `json:"cacheDirs"`
	Keys      []string       `json:"keys"`
	ShareKeys []string       `json:"shareKeys"`
	Sharing   string         `json:"sharing"`
	Nix       narserve.Stats `json:"nix"`
	Spool     SpoolStatus    `json:"spool"`
}

// SpoolStatus is how full the spool is.
type SpoolStatus struct {
	Bytes    int64 `json:"bytes"`
	Entries  int   `json:"entries"`
	MaxBytes int64 `json:"maxBytes"`
}

func (s *service) status() Status {
	spool := s.spool.Stats()
	st := Status{
		Schema: 1, Version: version, UptimeSeconds: int64(time.Since(s.started).Seconds()),
		Status: s.node.Status(), HTTP: addrsOf(s.listeners), CacheDirs: append([]string{}, s.shares.cacheDirs...),
		Keys: append([]string{}, s.trusted.Names()...), ShareKeys: append([]string{}, s.shareKeys.Names()...), Sharing: "signed",
		Nix: s.server.Stats(), Spool: SpoolStatus{spool.Bytes, spool.Entries, spool.MaxBytes},
	}
	if s.shares.hasNix() {
		st.Store = store.Dir
	}
	if !s.node.Sharing() {
		st.Sharing = "none"
	}
	return st
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the narbor that runs here, and its neighbours",
		Description: "Exit code 3 means that narbor is not running.\n\n" +
			"With --json everything is printed, for programs: the names stay what they are as long as \"schema\" does.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print everything as JSON", EnvVars: env("json")},
			stateFlag(), socketFlag(),
		},
		Action: func(c *cli.Context) error {
			paths, err := socketPaths(c)
			if err != nil {
				return err
			}
			st, err := askControl(c.Context, paths)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				enc := json.NewEncoder(c.App.Writer)
				enc.SetIndent("", "  ")
				return enc.Encode(st)
			}
			return st.print(c.App.Writer)
		},
	}
}

// atMost says how fast something may be sent.
func atMost(bytesPerSecond int64) string {
	if bytesPerSecond == 0 {
		return ""
	}
	return fmt.Sprintf(", at up to %s a second", humanize.Bytes(uint64(bytesPerSecond)))
}

// print writes one screen for people.
func (st Status) print(w io.Writer) error {
	up := time.Duration(st.UptimeSeconds) * time.Second
	fmt.Fprintf(w, "narbor %s, peer %s, up %s\n", st.Version, st.ID, up)
	fmt.Fprintf(w, "Nix asks   %s: %d found, %d not found; %d NARs, %s\n", strings.Join(st.HTTP, ", "),
		st.Nix.NarinfoHits, st.Nix.NarinfoMisses, st.Nix.NarsServed, amount(st.Nix.NarBytesServed))
	if st.Sharing == "signed" && len(st.ShareKeys) > 0 {
		fmt.Fprintf(w, "sharing    what %s has signed%s\n", strings.Join(st.ShareKeys, " or "), atMost(st.UploadRate))
	} else {
		fmt.Fprintln(w, "sharing    nothing")
	}
	if st.Group {
		fmt.Fprintln(w, "group      only neighbours that know its secret are asked and answered")
	}
	fmt.Fprintf(w, "spool      %s of %s\n", amount(st.Spool.Bytes), amount(st.Spool.MaxBytes))
	if len(st.Neighbours) == 0 {
		fmt.Fprintln(w, "\nNo neighbours. Is narbor running on another machine of this network, and UDP 5353 and TCP 6273 open there?")
	} else {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "\nNEIGHBOUR\tADDRESS\tFOUND BY\tFROM IT\tTO IT\tSTRIKES")
		for _, n := range st.Neighbours {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\n", shortID(n.ID), n.Addr, n.Via, amount(n.BytesReceived), amount(n.BytesSent), n.Strikes)
		}
		tw.Flush()
	}
	for _, o := range st.OtherGroup {
		fmt.Fprintf(w, "other group: %s at %s, which is neither asked nor answered\n", shortID(o.ID), o.Addr)
	}
	for _, b := range st.Struck {
		fmt.Fprintf(w, "banned until %s: %s, which lied: %s\n", b.Until.Format(time.TimeOnly), shortID(b.ID), b.Reason)
	}
	return nil
}

// shortID is enough of a peer ID to tell neighbours apart: they all begin alike.
func shortID(id string) string {
	if len(id) <= 12 {
		return id
	}
	return "…" + id[len(id)-8:]
}
