package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/p2p/ask"
	"narbor/store"
	"narbor/store/gitstore"
	"narbor/trust"
)

// getWhy answers whether Nix would get a path, and why or why not.
func (s *parts) getWhy(r *http.Request) (any, error) {
	parts, err := parseWanted([]string{r.URL.Query().Get("path")})
	if err != nil {
		return nil, exit.With(err, exit.Usage)
	}
	w := control.Why{Schema: control.Schema, HashPart: string(parts[0]), Neighbours: []ask.Answer{}}
	var claim store.Info
	if w.Local, claim, err = s.whyLocal(r.Context(), parts[0]); err != nil {
		return nil, err
	}
	w.StoreProblem = s.shares.nix.problem()
	near := w.Local != nil && w.Local.Served
	if r.URL.Query().Get("neighbours") != "no" {
		w.Neighbours = s.node.AskEach(r.Context(), parts[0])
		for _, a := range w.Neighbours {
			if near = near || a.Believed(); a.Believed() && claim.Path.IsZero() {
				claim = a.Mapping().Info()
			}
		}
		var fromUpstream store.Info
		if w.Upstream, fromUpstream = s.whyUpstream(r.Context(), parts[0], !near); claim.Path.IsZero() {
			claim = fromUpstream
		}
		w.Rebuild = s.shares.whyRebuild(r.Context(), claim, w.Local != nil)
	}
	w.Path = claim.Path.String()
	s.shares.whyContent(&w, parts[0], claim)
	judge(&w, len(s.keys.trusted.Names()))
	object(&w, s.server.Obstacle)
	return w, nil
}

func (s *shares) whyContent(w *control.Why, hp store.HashPart, claim store.Info) {
	if !claim.Path.IsZero() {
		w.CID = claim.NarHash.CID().String()
	}
	for _, g := range s.gits {
		if tree := g.Tree(hp); tree != "" && w.GitTree == "" {
			w.GitTree = tree
			if len(tree) == 40 { // Software Heritage has SHA-1 alone
				w.SWHID = "swh:1:dir:" + tree
			}
		}
	}
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
	case w.Local != nil && w.Local.Served && w.Local.Where == store.Dir:
		w.Status, w.From, w.Reason = http.StatusOK, "store", "this machine's own store has it, signed by an upstream"
	case w.Local != nil && w.Local.Served && w.Local.CA != "" && len(w.Local.Signatures) == 0:
		w.Status, w.From, w.Reason = http.StatusOK, "git", "a git repository of this machine has it: "+w.Local.Where
	case w.Local != nil && w.Local.Served:
		w.Status, w.From, w.Reason = http.StatusOK, "cache", "this machine's own cache directory has it, signed by an upstream"
	case holders > 0 && w.Upstream == nil && ask.Slow(holding(*w)):
		w.Reason = "its neighbours send it too slowly, " + estimate(*w) + "; Nix asks its next substituter"
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

// holding returns the NarSize of the path that neighbours have, and how many bytes a second those that count send
// together; 0 if one of them was not measured of late.
func holding(w control.Why) (size, rate int64) {
	for _, a := range w.Neighbours {
		if !a.Believed() || a.Unreliable != "" {
			continue
		}
		if a.Rate == 0 {
			return a.NarSize, 0
		}
		size, rate = a.NarSize, rate+a.Rate
	}
	return size, rate
}

// estimate says how long the path's archive takes from its neighbours and from an upstream, as far as their rates are
// known.
func estimate(w control.Why) string {
	var parts []string
	size, rate := holding(w)
	if rate > 0 {
		parts = append(parts, "from neighbours "+atRate(size, rate))
	}
	if u := w.Upstream; u != nil && u.Rate > 0 && (size > 0 || u.Has) {
		parts = append(parts, "from the upstream "+atRate(cmp.Or(size, u.NarSize), u.Rate))
	}
	return strings.Join(parts, ", ")
}

// atRate returns a time for an archive and the rate in bytes per second that it comes from.
func atRate(size, rate int64) string {
	return fmt.Sprintf("%s at %s/s", dashboard.ShortTime(time.Duration(float64(size)/float64(rate)*float64(time.Second))),
		dashboard.Amount(rate))
}

func haveIt(holders, neighbours int) string {
	switch {
	case neighbours == 1:
		return "the neighbour has it"
	case holders == 1:
		return fmt.Sprintf("1 of %d neighbours has it", neighbours)
	}
	return fmt.Sprintf("%d of %d neighbours have it", holders, neighbours)
}

const reasonBuiltHere = "it was built on this machine: your builds stay here, unless a key of --circle-key has signed them"

const reasonOff = "sharing is off; see `narbor share`"

// whyLocal looks for a path on this machine. Without one it returns nil.
func (s *parts) whyLocal(ctx context.Context, hp store.HashPart) (*control.WhyLocal, store.Info, error) {
	for i, src := range s.shares.sources {
		info, err := src.Info(ctx, hp)
		if refusal, ok := errors.AsType[*gitstore.Refusal](err); ok {
			l := &control.WhyLocal{Where: s.shares.where(i), Reason: refusal.Error(), Signatures: []control.WhySignature{}}
			return l, store.Info{}, nil
		}
		if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrDamaged) {
			continue
		}
		damaged := errors.Is(err, store.ErrDamaged)
		if err != nil && !damaged {
			return nil, store.Info{}, err
		}
		l := &control.WhyLocal{Where: store.Dir, NarHash: info.NarHash.String(), NarSize: info.NarSize, References: len(info.References),
			CA:         info.CA,
			Signatures: []control.WhySignature{}}
		if i > 0 {
			l.Where = s.shares.where(i)
		}
		record, _ := s.shares.offered.Of(info)
		for _, sig := range info.Signatures {
			v := s.keys.verdict(info, sig)
			if info.Offered && slices.Contains(record.Signatures, sig) {
				v.OfferedBy, v.OfferedAt = record.From, &record.At
			}
			l.Signatures = append(l.Signatures, v)
		}
		if l.Shared, l.Reason = s.keys.sharedBy(s.node.Sharing(), info); damaged {
			l.Shared, l.Reason = false, "its content on this machine is damaged; see `narbor doctor`"
		}
		_, unsigned := trust.Policy{Keys: s.keys.public, Fetched: s.shares.isGit(i)}.Check(info)
		l.Served = unsigned == nil && !damaged
		return l, info, nil
	}
	return nil, store.Info{}, nil
}

func (k *keyState) verdict(info store.Info, sig string) control.WhySignature {
	name, _, _ := strings.Cut(sig, ":")
	info.Signatures, info.CA = []string{sig}, ""
	_, err := k.trusted.Check(info)
	switch {
	case err == nil:
		return control.WhySignature{Key: name, Verdict: "verified"}
	case errors.Is(err, trust.ErrForged):
		return control.WhySignature{Key: name, Verdict: "wrong"}
	}
	return control.WhySignature{Key: name, Verdict: "unknown key"}
}

// sharedBy reports whether neighbours may have this path while there is sharing or not, and why or why not.
func (k *keyState) sharedBy(sharing bool, info store.Info) (bool, string) {
	m, err := k.sharing().Check(info)
	trusted, trustedErr := k.trusted.Check(info)
	switch {
	case err == nil && len(m.Info().String()) > store.MaxInfoLen:
		return false, fmt.Sprintf("its narinfo has %s bytes, and neighbours take %s: it has too many references",
			dashboard.Count(int64(len(m.Info().String()))), dashboard.Count(store.MaxInfoLen))
	case err == nil && !sharing:
		return false, reasonOff
	case err == nil && m.SignedBy() == "":
		return true, "it is a source that Nix has fetched by its hash, and --share-sources allows these"
	case err == nil && info.Ultimate:
		return true, m.SignedBy() + ", a key of the circle, has signed it: members of the group may have it, though it was built here"
	case err == nil:
		return true, m.SignedBy() + " has signed it"
	case errors.Is(err, trust.ErrBuiltHere):
		return false, reasonBuiltHere
	case errors.Is(err, trust.ErrDerivation):
		return false, "it is a derivation, which says how something is built and from what"
	case trustedErr == nil && trusted.SignedBy() != "":
		return false, trusted.SignedBy() + " has signed it, which is a private key; see `narbor keys`"
	case len(k.shared.Names()) == 0:
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

// whyUpstream returns the peer that is assigned to ask the upstreams, and if ask is true, also their answer. It returns
// nil if there are none. The claim is that of the upstream that has the path.
func (s *parts) whyUpstream(ctx context.Context, hp store.HashPart, ask bool) (w *control.WhyUpstream, claim store.Info) {
	if len(s.upstreams) == 0 {
		return nil, claim
	}
	w = &control.WhyUpstream{Assignment: s.node.Assignment(hp), Asked: ask, Rate: s.node.Status().UpstreamRate}
	if !ask {
		return w, claim
	}
	start := time.Now()
	m, err := s.node.LookupUpstream(ctx, hp)
	w.Millis = float64(time.Since(start).Microseconds()) / 1000
	switch {
	case err == nil:
		w.Has, w.SignedBy, w.NarHash, w.NarSize = true, m.SignedBy(), m.NarHash().String(), m.NarSize()
		claim = m.Info()
	case errors.Is(err, store.ErrUnreadable):
		w.Problem, w.Unreadable = err.Error(), true
	case !errors.Is(err, store.ErrNotFound) || errors.Is(err, trust.ErrUntrusted) || errors.Is(err, trust.ErrForged):
		w.Problem = err.Error()
	}
	return w, claim
}

// answeredNAR returns the NAR of the narinfo that Nix would get; ok is false if Nix would get 404.
func answeredNAR(w control.Why) (narHash store.Hash, narSize int64, ok bool) {
	text := ""
	switch w.From {
	case "store", "cache", "git":
		text, narSize = w.Local.NarHash, w.Local.NarSize
	case "neighbours":
		for _, a := range w.Neighbours {
			if a.Believed() {
				text, narSize = a.NarHash, a.NarSize
				break
			}
		}
	case "upstream":
		text, narSize = w.Upstream.NarHash, w.Upstream.NarSize
	}
	narHash, err := store.ParseHash(text)
	return narHash, narSize, err == nil
}

// object changes the answer to 404 if the server would not offer the NAR to Nix.
func object(w *control.Why, obstacle func(store.HashPart, store.Hash, int64) error) {
	narHash, narSize, ok := answeredNAR(*w)
	if !ok {
		return
	}
	err := obstacle(store.HashPart(w.HashPart), narHash, narSize)
	if err == nil {
		return
	}
	w.Status, w.From = http.StatusNotFound, ""
	const next = "; Nix asks its next substituter"
	switch {
	case errors.Is(err, store.ErrTooLarge):
		w.Reason = fmt.Sprintf("it can be had, but its archive of %s is larger than the spool, see --spool-size of `narbor run`%s",
			dashboard.Amount(narSize), next)
	case errors.Is(err, store.ErrNoSpace):
		w.Reason = fmt.Sprintf("it can be had, but the disk of the spool has no room for its archive of %s beside what --min-free "+
			"leaves free%s", dashboard.Amount(narSize), next)
	case errors.Is(err, store.ErrMalformed):
		w.Reason = "it can be had, but its archive is malformed, though it was signed" + next
	default:
		w.Reason = "it can be had, but " + err.Error() + next
	}
}
