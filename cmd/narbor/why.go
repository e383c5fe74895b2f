package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
	"narbor/p2p"
	"narbor/store"
	"narbor/trust"
)

// getWhy answers whether Nix would get a path, and why or why not.
func (s *service) getWhy(r *http.Request) (any, error) {
	parts, err := parseWanted([]string{r.URL.Query().Get("path")})
	if err != nil {
		return nil, control.WithCode(err, control.ExitUsage)
	}
	w := control.Why{Schema: control.Schema, HashPart: string(parts[0]), Neighbours: []p2p.Answer{}}
	if w.Local, w.Path, err = s.whyLocal(r.Context(), parts[0]); err != nil {
		return nil, err
	}
	w.StoreProblem = s.shares.nixProblem()
	near := w.Local != nil && isSigned(*w.Local)
	if r.URL.Query().Get("neighbours") != "no" {
		w.Neighbours = s.node.AskEach(r.Context(), parts[0])
		near = near || slices.ContainsFunc(w.Neighbours, p2p.Answer.Believed)
		w.Upstream = s.whyUpstream(r.Context(), parts[0], !near)
	}
	for _, a := range w.Neighbours {
		if w.Path == "" && a.Believed() {
			w.Path = a.Path
		}
	}
	judge(&w, len(s.trusted.Names()))
	object(&w, s.server.Obstacle)
	return w, nil
}

// judge sets the answer that Nix would get, in the order in which the sources are asked.
func judge(w *control.Why, keys int) {
	holders, claims, why, unreliable := 0, 0, "", ""
	for _, a := range w.Neighbours {
		if a.Believed() && a.Unreliable != "" {
			unreliable = dashboard.ShortID(a.ID) + ": " + a.Unreliable
		} else if a.Believed() {
			holders++
		} else if a.Path != "" {
			claims, why = claims+1, a.Problem
		}
	}
	w.Status = http.StatusNotFound
	switch {
	case w.Local != nil && isSigned(*w.Local) && w.Local.Where == store.Dir:
		w.Status, w.From, w.Reason = http.StatusOK, "store", "this machine's own store has it, signed by an upstream"
	case w.Local != nil && isSigned(*w.Local):
		w.Status, w.From, w.Reason = http.StatusOK, "cache", "this machine's own cache directory has it, signed by an upstream"
	case holders > 0:
		w.Status, w.From, w.Reason = http.StatusOK, "neighbours", haveIt(holders, len(w.Neighbours))
	case w.Upstream != nil && w.Upstream.Has:
		w.Status, w.From, w.Reason = http.StatusOK, "upstream", "no neighbour has it, but an upstream does"
	case w.Upstream != nil && w.Upstream.Unreadable && claims == 0:
		w.Reason = "an upstream has it, and narbor cannot read it; Nix asks its next substituter, and may"
	case unreliable != "":
		w.Reason = "no neighbour that is relied on has it (" + unreliable + "); Nix asks its next substituter"
	case w.Upstream != nil && w.Upstream.Problem != "" && keys > 0 && claims == 0:
		w.Reason = "no neighbour has it, and upstreams cannot tell; Nix asks its next substituter"
	case len(w.Neighbours) == 0 && w.Upstream != nil:
		w.Reason = "there are no neighbours, and no upstream has it; Nix asks its next substituter"
	case len(w.Neighbours) == 0:
		w.Reason = "there are no neighbours; Nix asks its next substituter"
	case keys == 0:
		w.Reason = "no key is trusted, so no answer can be accepted; see `narbor keys`"
	case claims > 0:
		w.Reason = "no answer can be accepted: " + why
	case w.Upstream != nil && w.Upstream.Asked:
		w.Reason = "neither a neighbour nor an upstream has it; Nix asks its next substituter"
	default:
		w.Reason = "no neighbour has it; Nix asks its next substituter"
	}
}

// haveIt returns how many of the neighbours have something.
func haveIt(holders, neighbours int) string {
	switch {
	case neighbours == 1:
		return "the neighbour has it"
	case holders == 1:
		return fmt.Sprintf("1 of %d neighbours has it", neighbours)
	}
	return fmt.Sprintf("%d of %d neighbours have it", holders, neighbours)
}

// isSigned reports whether an upstream key has signed the path, so that it may be shared and served.
func isSigned(l control.WhyLocal) bool { return l.Shared || l.Reason == reasonOff }

const reasonBuiltHere = "it was built on this machine: your builds stay here, whatever has signed them"

const reasonOff = "sharing is off; see `narbor share`"

// whyLocal looks for a path on this machine.
func (s *service) whyLocal(ctx context.Context, hp store.HashPart) (*control.WhyLocal, string, error) {
	for i, src := range s.shares.sources {
		info, err := src.Info(ctx, hp)
		if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrDamaged) {
			continue
		}
		damaged := errors.Is(err, store.ErrDamaged)
		if err != nil && !damaged {
			return nil, "", err
		}
		l := &control.WhyLocal{Where: store.Dir, NarHash: info.NarHash.String(), NarSize: info.NarSize, References: len(info.References),
			CA:         info.CA,
			Signatures: []control.WhySignature{}}
		if i > 0 {
			l.Where = s.shares.cacheDirs[i-1]
		}
		for _, sig := range info.Signatures {
			l.Signatures = append(l.Signatures, s.verdict(info, sig))
		}
		if l.Shared, l.Reason = s.shared(info); damaged {
			l.Shared, l.Reason = false, "its content on this machine is damaged; see `narbor doctor`"
		}
		return l, info.Path.String(), nil
	}
	return nil, "", nil
}

// verdict returns the result of checking one signature.
func (s *service) verdict(info store.Info, sig string) control.WhySignature {
	key, _, _ := strings.Cut(sig, ":")
	info.Signatures, info.CA = []string{sig}, ""
	_, err := s.trusted.Check(info)
	switch {
	case err == nil:
		return control.WhySignature{Key: key, Verdict: "verified"}
	case errors.Is(err, trust.ErrForged):
		return control.WhySignature{Key: key, Verdict: "wrong"}
	}
	return control.WhySignature{Key: key, Verdict: "unknown key"}
}

// shared reports whether neighbours may have this path, and why or why not.
func (s *service) shared(info store.Info) (bool, string) {
	m, err := s.shareKeys.CheckShared(info)
	trusted, trustedErr := s.trusted.Check(info)
	switch {
	case err == nil && len(m.Info().String()) > store.MaxInfoLen:
		return false, fmt.Sprintf("its narinfo has %s bytes, and neighbours take %s: it has too many references",
			dashboard.Count(int64(len(m.Info().String()))), dashboard.Count(store.MaxInfoLen))
	case err == nil && !s.node.Sharing():
		return false, reasonOff
	case err == nil:
		return true, m.SignedBy() + " has signed it"
	case errors.Is(err, trust.ErrBuiltHere):
		return false, reasonBuiltHere
	case errors.Is(err, trust.ErrDerivation):
		return false, "it is a derivation, which says how something is built and from what"
	case trustedErr == nil && trusted.SignedBy() != "":
		return false, trusted.SignedBy() + " has signed it, which is a private key; see `narbor keys`"
	case len(s.shareKeys.Names()) == 0:
		return false, "no trusted key is public; see `narbor keys`"
	case errors.Is(err, trust.ErrForged):
		return false, "its signature is wrong"
	case len(info.Signatures) > 0:
		return false, "no key that this machine trusts has signed it"
	case info.CA != "":
		return false, "it has no signature, and its content address alone does not make it public"
	}
	return false, "it has no signature: it was built here, or copied without signatures"
}

func whyCommand() *cli.Command {
	return &cli.Command{
		Name:      "why",
		Usage:     "say why Nix gets a store path from here, or does not",
		ArgsUsage: "PATH|HASH",
		Description: "PATH may also be a file in a store path, or a link to one, such as ./result.\n\n" +
			"It tells whether the path is valid on this machine, which signature it has and what that is worth, which\n" +
			"neighbours have it, what Nix would be answered, and with --upstream, which neighbour, or this machine, was\n" +
			"elected to ask there. Asking costs the neighbours one question each, and the upstream one if none has it.\n\n" +
			"Exit code 5 means that Nix would get 404 for it.\n\n" +
			"Example: narbor why /nix/store/…-firefox-141.0",
		Flags:  controlFlags(),
		Action: func(c *cli.Context) error { return why(c, false) },
	}
}

// why asks about one path. To explain is to tell only what neighbours may have.
func why(c *cli.Context, explain bool) error {
	if c.NArg() != 1 {
		return control.WithCode(fmt.Errorf("%s takes one store path", c.Command.Name), control.ExitUsage)
	}
	asked := storePathOf(c.Args().First())
	if _, err := parseWanted([]string{asked}); err != nil {
		return control.WithCode(fmt.Errorf("%s takes one store path, a file in one, or a link to one: %w", c.Command.Name, err),
			control.ExitUsage)
	}
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	query := queryOf("path", asked)
	if explain {
		query += "&neighbours=no"
	}
	var w control.Why
	if err := ctl.Get(c.Context, "/why?"+query, &w); err != nil {
		return err
	}
	switch {
	case c.Bool("json"):
		err = printJSON(c.App.Writer, w)
	case explain:
		explainWhy(w, asked, newScreen(c))
	default:
		printWhy(w, asked, newScreen(c))
	}
	if err == nil && (explain && (w.Local == nil || !w.Local.Shared) || !explain && w.Status != http.StatusOK) {
		err = control.WithCode(errors.New(""), control.ExitNotFound)
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
	printSignatures(w, s)
	printWhyNeighbours(w, s)
	printWhyUpstream(w, s)
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
		s.field(map[bool]string{true: "signed by"}[i == 0], "%s: %s", sig.Key, sig.Verdict)
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

func signedBy(a p2p.Answer) string {
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
