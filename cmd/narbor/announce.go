package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/p2p"
	"narbor/store"
	"narbor/store/nixconf"
)

func (s *parts) announce(c *cli.Context) error {
	w := c.App.Writer
	line := func(key, format string, args ...any) {
		fmt.Fprintf(w, "  %-11s %s\n", key, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "narbor %s\n", version)
	line("store", "%s", s.shares.describe())
	switch names := s.keys.shared.Names(); {
	case s.shares.off:
		line("sharing", "nothing (--share none)")
	case s.pause.end() != nil:
		line("sharing", "nothing until %s: it was paused", s.pause.end().Local().Format("2006-01-02 15:04"))
	case len(names) == 0:
		line("sharing", "nothing that is signed: no trusted key is public; see `narbor keys`")
	case len(s.keys.circleNames()) > 0 || s.keys.fetched:
		line("sharing", "what %s has signed", strings.Join(names, " or "))
	default:
		line("sharing", "what %s has signed, and nothing else", strings.Join(names, " or "))
	}
	if s.keys.fetched && !s.shares.off {
		to := "every neighbour"
		if s.keys.group.secret != nil {
			to = "members of the group"
		}
		line("sources", "what Nix has fetched by its hash goes to %s without a signature", to)
	}
	if _, private := s.keys.policy().split(s.keys.trusted.Names()); len(private) > 0 {
		line("private", "what only %s has signed goes %s", strings.Join(private, " or "),
			control.Status{Status: p2p.Status{Group: s.keys.group.secret != nil}}.PrivateGoes())
	}
	if names := s.keys.circleNames(); len(names) > 0 {
		line("circle", "what was built here and %s has signed goes to members of the group", strings.Join(names, " or "))
	}
	if file := s.keys.group.file; file != "" && len(s.keys.circleNames()) == 0 {
		line("circle", "Nix trusts none of the keys in %s, so no own builds are shared: see `narbor circle show`", file)
	}
	for _, key := range slices.Concat(s.keys.named, s.keys.group.keys) {
		if name := keyName(key); !slices.Contains(s.keys.trusted.Names(), name) {
			line("unknown key", "%s is no trusted key: give its name as it stands before the colon in trusted-public-keys", name)
		}
	}
	for _, problem := range s.keys.problems() {
		line("nix.conf", "cannot be read to its end: %s", problem)
	}
	if names := s.keys.trusted.Names(); len(names) > 0 {
		line("trusting", "%s (%s)", strings.Join(names, ", "), s.keys.settings().Origin)
	} else {
		line("trusting", "no key: Nix has no trusted-public-keys, so nothing from a neighbour can be accepted; give --trusted-key")
	}
	s.announceNetwork(c, line)
	s.announceNix(w, line)
	return nil
}

func (s *parts) announceNetwork(c *cli.Context, line func(key, format string, args ...any)) {
	st := s.node.Status()
	if st.Group {
		line("group", "only neighbours that know the secret are asked and answered")
	}
	var used, ignored []string
	for _, i := range st.Interfaces {
		if i.Used {
			used = append(used, i.Name)
		} else if i.Name != "lo" {
			ignored = append(ignored, i.Name+" ("+i.Reason+")")
		}
	}
	port := fmt.Sprintf("TCP port %d", c.Uint("port"))
	if st.Vsock {
		port += ", and vsock"
	}
	switch {
	case c.Bool("no-mdns"):
		line("neighbours", "only those named by --peer, and those that connect by themselves; %s", port)
	case len(used) == 0:
		line("neighbours", "no network yet; looking as soon as there is one; %s", port)
	default:
		line("neighbours", "by mDNS on %s; %s", strings.Join(used, ", "), port)
	}
	if len(ignored) > 0 {
		line("ignored", "%s", strings.Join(ignored, ", "))
	}
}

// announceNix prints narbor's URL and the next step: the line for nix.conf that names it if there is none yet, or
// without Nix what else can be done.
func (s *parts) announceNix(w io.Writer, line func(key, format string, args ...any)) {
	urls := s.urls()
	line("for Nix", "%s", strings.Join(urls, ", "))
	if !nixconf.Installed() {
		fmt.Fprint(w, "There is no Nix here, so narbor shares only cache directories. `narbor fetch` fills its own, and --cache-dir "+
			"names others.\n"+
			"`narbor demo` shows what narbor does, on this computer alone.\n")
		return
	}
	if len(urls) == 0 || s.isSubstituter() {
		return
	}
	fmt.Fprintf(w, "Nix does not ask narbor yet. Add this line to nix.conf, below any substituters line, and restart nix-daemon:\n"+
		"  %s\n", s.nixConfLine())
}

func (s *shares) describe() string {
	what := "no Nix here"
	switch {
	case s.nix.here():
		what = store.Dir + " by way of Nix"
	case s.nix.problem() != "":
		what = store.Dir + ", but Nix does not answer questions about it"
	case nixconf.Installed():
		what = "none of Nix yet"
	}
	return what + "; cache in " + strings.Join(s.cacheDirs, ", ")
}
