package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/trust"
)

func shareCommand() *cli.Command {
	return &cli.Command{
		Name:  "share",
		Usage: "see or change what neighbours may have from the narbor that runs here",
		Description: "Without a command it shows what neighbours may have. A change lasts until narbor is restarted, which goes by\n" +
			"--share of `narbor run`; a pause with --for lasts as long as it says, and restarts do not end it. Only root and the user " +
			"that runs narbor may change it. Nix on this machine gets\n" +
			"from neighbours what it got before.\n\n" +
			"Examples:\n   narbor share pause --for 1h\n   narbor share explain /nix/store/…-firefox-141.0",
		Flags:  controlFlags(),
		Action: func(c *cli.Context) error { return shareStatus(c) },
		Subcommands: []*cli.Command{
			{Name: "status", Usage: "what neighbours may have", Flags: controlFlags(), Action: shareStatus},
			{Name: "pause", Aliases: []string{"none"}, Usage: "neighbours get nothing, from this moment on",
				Description: "Transfers to neighbours end with the block that is being sent.\n\nExample: narbor share pause --for 1h30m",
				Flags: append(controlFlags(), &cli.DurationFlag{Name: "for", EnvVars: env("for"), DefaultText: "not before a restart",
					Usage: "share again by itself after this `TIME`, such as 45m or 2h"}),
				Action: func(c *cli.Context) error { return changeShare(c, "none") }},
			{Name: "resume", Aliases: []string{"signed"}, Usage: "neighbours may have what an upstream has signed",
				Flags: controlFlags(), Action: func(c *cli.Context) error { return changeShare(c, "signed") }},
			{Name: "explain", Usage: "whether neighbours may have a path, and why", ArgsUsage: "PATH|HASH",
				Description: "Exit code 5 means that they may not.\n\nExample: narbor share explain /nix/store/…-firefox-141.0",
				Flags:       controlFlags(), Action: func(c *cli.Context) error { return why(c, true) }},
		},
	}
}

func changeShare(c *cli.Context, what string) error {
	if c.Args().Present() {
		return exit.With(fmt.Errorf("share takes no further argument, but got %q", c.Args().First()), exit.Usage)
	}
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	url, until := "/share", ", until narbor is restarted"
	if d := c.Duration("for"); c.IsSet("for") {
		if d <= 0 || d > maxPause {
			return exit.With(fmt.Errorf("--for %s: give up to %s, such as 1h", d, maxPause), exit.Usage)
		}
		url, until = "/share?"+queryOf("for", d.String()), " for "+dashboard.ShortTime(d)
	}
	if err := ctl.Put(c.Context, url, what); err != nil {
		return err
	}
	if c.Bool("json") {
		return shareStatus(c)
	}
	if what == "none" {
		fmt.Fprintf(c.App.Writer, "Neighbours get nothing any more%s. `narbor share resume` ends that.\n", until)
	} else {
		fmt.Fprintln(c.App.Writer, "Neighbours may have what an upstream has signed, until narbor is restarted.")
	}
	return nil
}

// ShareStatus is what `narbor share --json` prints.
type ShareStatus struct {
	Schema      int        `json:"schema"`
	Sharing     string     `json:"sharing"`               // signed or none
	PausedUntil *time.Time `json:"pausedUntil,omitempty"` // when that ends by itself
	ShareKeys   []string   `json:"shareKeys"`             // what one of these has signed is shared
	UploadRate  int64      `json:"uploadRate"`            // bytes a second; 0 is no limit
	Group       bool       `json:"group"`
	Sources     bool       `json:"shareSources"` // fetched sources are shared without a signature
	Store       string     `json:"store"`
	CacheDirs   []string   `json:"cacheDirs"`
	BytesSent   int64      `json:"bytesSent"` // to present neighbours
	// Kinds has each kind of path, the machines that may have it, and what they have had since the start.
	Kinds []dashboard.ShareKind `json:"kinds"`

	what string // for people
	from []string
}

const noMachine = "no machine"

// shareKinds returns with which machines each kind of path is shared, and how much of it was asked for and sent.
func shareKinds(st control.Status) []dashboard.ShareKind {
	const members = "members of the group"
	with := func(may bool, machines string) string {
		if !may || st.Sharing == "none" {
			return noMachine
		}
		return machines
	}
	all := "every neighbour"
	if st.Group {
		all = members
	}
	kind := func(k trust.Kind, what, machines string) dashboard.ShareKind {
		return dashboard.ShareKind{Kind: what, With: machines, KindCount: st.Shared[k]}
	}
	return []dashboard.ShareKind{
		kind(trust.KindPublic, "signed by a public key", with(len(st.PublicKeys) > 0, all)),
		kind(trust.KindOffered, "unsigned here, signature offered", with(len(st.ShareKeys) > 0, all)),
		kind(trust.KindPrivate, "signed by private keys alone", with(st.Group && len(st.PrivateKeys) > 0, members)),
		kind(trust.KindSource, "fetched source, unsigned", with(st.ShareSources, all)),
		kind(trust.KindGit, "commit of a git repository", with(st.ShareSources, all)),
		kind(trust.KindOwn, "own build with the circle's signature", with(st.Group && len(st.CircleKeys) > 0, members)),
		kind(trust.KindKept, "any path that is here and stays here", noMachine),
	}
}

func printKinds(kinds []dashboard.ShareKind, s screen) {
	rows := make([][]string, len(kinds))
	for i, k := range kinds {
		sent := ""
		if k.Sent > 0 {
			sent = dashboard.Amount(k.Sent)
		}
		rows[i] = []string{k.Kind, k.With, dashboard.Count(k.Asked), sent}
	}
	s.table([]string{"KIND OF PATH", "SHARED WITH", ">ASKED FOR", ">SENT"}, rows, 3, 2)
}

func shareStatus(c *cli.Context) error {
	if c.Args().Present() {
		return exit.With(errors.New("share what? Say status, pause, resume, or explain with a path; see narbor share --help"),
			exit.Usage)
	}
	st, err := askRunning[control.Status](c, "/status")
	if err != nil {
		return err
	}
	sh := shareOf(st)
	return show(c, sh, sh.print)
}

func shareOf(st control.Status) ShareStatus {
	sh := ShareStatus{Schema: control.Schema, Sharing: st.Sharing, PausedUntil: st.PausedUntil, ShareKeys: st.ShareKeys,
		UploadRate: st.UploadRate, Group: st.Group, Sources: st.ShareSources, Store: st.Store, CacheDirs: st.CacheDirs, what: sharingOf(st),
		Kinds: shareKinds(st), from: st.SharesFrom()}
	for _, n := range st.Neighbours {
		sh.BytesSent += n.BytesSent
	}
	return sh
}

func (sh ShareStatus) print(s screen) {
	s.field("sharing", "%s", sh.what)
	sources := "private sources"
	if sh.Sources {
		sources = "local directories, unless their path is called source, as flakes are"
	}
	s.field("never", "paths that were built here, %s, .drv files, and any list of the paths here", sources)
	s.field("from", "%s", strings.Join(sh.from, ", "))
	with := "every neighbour that asks for the exact path"
	if sh.Group {
		with = "neighbours that know the group's secret, and ask for the exact path"
	}
	s.field("with", "%s", with)
	s.field("sent", "%s to present neighbours", dashboard.Amount(sh.BytesSent))
	fmt.Fprintln(s)
	printKinds(sh.Kinds, s)
}

func upTo(bytesPerSecond int64) string {
	if bytesPerSecond == 0 {
		return ""
	}
	return fmt.Sprintf(", at up to %s a second", dashboard.Amount(bytesPerSecond))
}

const fetchedSources = "sources that Nix has fetched by their hash"

func sharingOf(st control.Status) string {
	switch {
	case st.Sharing == "none" && st.PausedUntil != nil:
		return "nothing until " + st.PausedUntil.Local().Format("15:04") + " (`narbor share resume` ends the pause)"
	case st.Sharing == "none":
		return "nothing (`narbor share resume` changes that)"
	case len(st.ShareKeys) == 0 && st.ShareSources:
		return fetchedSources + upTo(st.UploadRate)
	case len(st.ShareKeys) == 0:
		return "nothing: no trusted key is public; see `narbor keys`"
	}
	what := "what " + strings.Join(st.ShareKeys, " or ") + " has signed"
	if st.ShareSources {
		what += ", and " + fetchedSources
	}
	return what + upTo(st.UploadRate)
}
