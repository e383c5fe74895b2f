package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/p2p/ask"
	"narbor/store"
)

func whyCommand() *cli.Command {
	return &cli.Command{
		Name:      "why",
		Usage:     "say why Nix gets a store path from here, or does not",
		ArgsUsage: "PATH|HASH",
		Description: "PATH may also be a file in a store path, or a link to one, such as ./result.\n\n" +
			"It tells whether the path is valid on this machine, which signature it has and what that is worth, which\n" +
			"neighbours have it, the CID of its archive and the ID that git has for it, what Nix would be answered, from\n" +
			"which other version in this machine's store it was rebuilt, or would be, or why not, and with --upstream,\n" +
			"which neighbour, or this machine, was assigned to ask\n" +
			"there. Asking costs the neighbours one question each, and the upstream one if none has it.\n\n" +
			"Exit code 5 means that Nix would get 404 for it.\n\n" +
			"Example: narbor why /nix/store/…-firefox-141.0",
		Flags:  controlFlags(),
		Action: func(c *cli.Context) error { return why(c, false) },
	}
}

// why asks about one path. To explain is to tell only what neighbours may have.
func why(c *cli.Context, explain bool) error {
	if c.NArg() != 1 {
		return exit.With(fmt.Errorf("%s takes one store path", c.Command.Name), exit.Usage)
	}
	asked := storePathOf(c.Args().First())
	if _, err := parseWanted([]string{asked}); err != nil {
		return exit.With(fmt.Errorf("%s takes one store path, a file in one, or a link to one: %w", c.Command.Name, err),
			exit.Usage)
	}
	query := queryOf("path", asked)
	if explain {
		query += "&neighbours=no"
	}
	w, err := askRunning[control.Why](c, "/why?"+query)
	if err != nil {
		return err
	}
	tell := printWhy
	if explain {
		tell = explainWhy
	}
	err = show(c, w, func(s screen) { tell(w, asked, s) })
	if err == nil && (explain && (w.Local == nil || !w.Local.Shared) || !explain && w.Status != http.StatusOK) {
		err = exit.With(errors.New(""), exit.NotFound)
	}
	return err
}

// storePathOf returns the store path that a file is in, or that a link such as ./result leads to. It returns what it
// cannot resolve as it is.
func storePathOf(arg string) string {
	if _, err := parseWanted([]string{arg}); err == nil {
		return arg
	}
	file, err := filepath.Abs(arg)
	if err != nil {
		return arg
	}
	const mostLinks = 40 // as many as Linux follows
	for range mostLinks {
		if rest, ok := strings.CutPrefix(file, store.Dir+"/"); ok {
			base, _, _ := strings.Cut(rest, "/")
			return store.Dir + "/" + base
		}
		if resolved, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil { // a directory on the way may be a link, too
			file = filepath.Join(resolved, filepath.Base(file))
		}
		if strings.HasPrefix(file, store.Dir+"/") {
			continue
		}
		to, err := os.Readlink(file)
		if err != nil {
			return arg
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(file), to)
		}
		file = filepath.Clean(to)
	}
	return arg
}

func titleOf(w control.Why, asked string) string {
	return cmp.Or(w.Path, asked, w.HashPart)
}

func printWhy(w control.Why, asked string, s screen) {
	fmt.Fprintln(s, s.paint(bold, s.fit(titleOf(w, asked))))
	switch {
	case w.Local == nil && w.StoreProblem != "":
		s.field("here", "unknown: Nix on this machine cannot be asked; see `narbor status`")
	case w.Local == nil:
		s.field("here", "not valid on this machine")
	default:
		s.field("here", "valid in %s, %s, %s", w.Local.Where, dashboard.Amount(w.Local.NarSize),
			dashboard.Plural(w.Local.References, "reference"))
	}
	if w.CID != "" {
		s.field("content", "%s (CID)", w.CID)
	}
	if w.GitTree != "" {
		s.field("git tree", "%s", strings.TrimSuffix(w.GitTree+", "+w.SWHID, ", "))
	}
	printSignatures(w, s)
	printWhyNeighbours(w, s)
	printWhyUpstream(w, s)
	printWhyRebuild(w.Rebuild, s)
	if e := estimate(w); e != "" {
		s.field("takes", "about %s", e)
	}
	if w.Status == http.StatusOK {
		s.field("Nix gets", "%s %s", s.paint(green, "200"), w.Reason)
		return
	}
	s.field("Nix gets", "%s %s", s.paint(yellow, "404"), w.Reason)
}

func printSignatures(w control.Why, s screen) {
	if w.Local == nil {
		return
	}
	for i, sig := range w.Local.Signatures {
		from := ""
		if sig.OfferedAt != nil {
			from = fmt.Sprintf(", not in the database but offered by neighbour %s on %s", dashboard.ShortID(sig.OfferedBy),
				sig.OfferedAt.Format(time.DateOnly))
		}
		s.field(map[bool]string{true: "signed by"}[i == 0], "%s: %s%s", sig.Key, sig.Verdict, from)
	}
	if len(w.Local.Signatures) == 0 {
		s.field("signed by", "no key")
	}
	if w.Local.Shared {
		s.field("shared", "yes: %s", w.Local.Reason)
	} else {
		s.field("shared", "no: %s", w.Local.Reason)
	}
}

func printWhyNeighbours(w control.Why, s screen) {
	for i, a := range w.Neighbours {
		what := "does not have it, or does not share it"
		switch {
		case a.Believed() && a.Receiving:
			what = "is receiving it, " + dashboard.Amount(a.NarSize) + ", " + signedBy(a)
		case a.Believed():
			what = "has it, " + dashboard.Amount(a.NarSize) + ", " + signedBy(a)
			if a.Unreliable != "" {
				what += ", but " + a.Unreliable
			}
		case a.Problem != "":
			what = a.Problem
		}
		s.field(map[bool]string{true: "neighbours"}[i == 0], "%s %s (%.1f ms)", dashboard.ShortID(a.ID), what, a.Millis)
	}
	if len(w.Neighbours) == 0 {
		s.field("neighbours", "none")
	}
}

func printWhyRebuild(r *control.WhyRebuild, s screen) {
	switch {
	case r == nil:
	case r.Problem != "" && r.From != "":
		s.field("rebuilt", "no, not from %s: %s", r.From, r.Problem)
	case r.Problem != "":
		s.field("rebuilt", "no: %s", r.Problem)
	case r.Done:
		s.field("rebuilt", "yes, from %s", r.From)
	default:
		s.field("rebuilt", "it would be, from %s, if that is quicker than to fetch it", r.From)
	}
}

func signedBy(a ask.Answer) string {
	if a.SignedBy == "" {
		return "content-addressed"
	}
	return "signed by " + a.SignedBy
}

func explainWhy(w control.Why, asked string, s screen) {
	fmt.Fprintln(s, s.paint(bold, s.fit(titleOf(w, asked))))
	if w.Local == nil {
		why := "it is not valid on this machine"
		if w.StoreProblem != "" {
			why = "Nix on this machine cannot be asked; see `narbor status`"
		}
		s.field("shared", "no: %s", why)
		return
	}
	s.field("from", "%s", w.Local.Where)
	printSignatures(w, s)
}

func printWhyUpstream(w control.Why, s screen) {
	if w.Upstream == nil {
		return
	}
	u := *w.Upstream
	switch {
	case u.Has:
		s.field("upstream", "has it, %s, %s (%.1f ms)", dashboard.Amount(u.NarSize), signedBy(ask.Answer{SignedBy: u.SignedBy}), u.Millis)
	case u.Problem != "":
		s.field("upstream", "%s", strings.TrimPrefix(u.Problem, "upstream "))
	case u.Asked:
		s.field("upstream", "does not have it (%.1f ms)", u.Millis)
	default:
		s.field("upstream", "not asked: there is no need")
	}
	switch a := u.Assignment; {
	case a.Alone != "":
		s.field("assigned", "this machine asks and downloads for itself: %s", a.Alone)
	case a.Assignee == "":
		s.field("assigned", "this machine, to ask and download for all: it has the highest weight of %d machines for this path", a.Of())
	default:
		s.field("assigned", "neighbour %s, to ask and download for all: it has the highest weight of %d machines for this path; if it "+
			"makes no progress for %.0f s, this machine does it itself",
			dashboard.ShortID(a.Assignee), a.Of(), a.Patience)
	}
	for _, c := range u.Assignment.Candidates {
		if c.Out != "" {
			s.field("", "%s is left out: %s", dashboard.ShortID(c.ID), c.Out)
		}
	}
	if u.Assignment.Refuses != "" && u.Assignment.Refuses != u.Assignment.Alone {
		s.field("", "for others this machine downloads nothing: %s", u.Assignment.Refuses)
	}
}
