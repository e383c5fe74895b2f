package p2p

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// upstreamProtocol begins the name of a protocol that carries no data: a peer that supports it asks certain upstreams
// on behalf of neighbours.
const upstreamProtocol = "/narbor/upstream/1/"

// signOf is the protocol of the peers that ask these upstreams. Others are not elected: our upstreams may have what
// theirs lack.
func signOf(upstreams []*upstream.Cache) protocol.ID {
	var urls []string
	for _, u := range upstreams {
		urls = append(urls, u.String())
	}
	slices.Sort(urls)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(urls), "\n")))
	return protocol.ID(upstreamProtocol + hex.EncodeToString(sum[:8]))
}

// electorate is the beginning of the hash input of the members' scores for a path. So the peer that asks for its
// narinfo is also the one that fetches its NAR, and has its location by then.
func electorate(hp store.HashPart) store.Hash { return sha256.Sum256([]byte(hp)) }

// elect returns the neighbour that is to ask the upstream about what has that hash, or nil if that is this node: of all
// that do such things for others and are not left out, the one of the highest score. others is how many took part.
func (n *Node) elect(h store.Hash, out func(*peers.Neighbour) bool) (who *peers.Neighbour, others int) {
	best := fetch.WeightSeed(n.lan.Host().ID(), h)
	for _, nb := range n.members() {
		if out != nil && out(nb) {
			continue
		}
		others++
		if s := fetch.WeightSeed(nb.ID, h); s > best {
			best, who = s, nb
		}
	}
	return who, others
}

// members are the neighbours that ask an upstream on behalf of others, and have not failed to of late.
func (n *Node) members() (out []*peers.Neighbour) {
	if n.cfg.NoCooperate || len(n.cfg.Upstreams) == 0 {
		return nil
	}
	now := time.Now()
	for _, nb := range n.neighbours.all() {
		if nb.LeftOut(now) == "" && nb.Has(n.sign) {
			out = append(out, nb)
		}
	}
	return out
}

// showSign lets neighbours know whether this node asks its upstreams for them; that may change.
func (n *Node) showSign() {
	h := n.lan.Host()
	shown := slices.Contains(h.Mux().Protocols(), n.sign)
	switch helps := n.helps(); {
	case helps && !shown:
		h.SetStreamHandler(n.sign, func(s network.Stream) { s.Reset() })
	case !helps && shown:
		h.RemoveStreamHandler(n.sign)
	}
}

// An Election says which of this node and its neighbours asks the upstreams about a path, and downloads it for all.
type Election struct {
	Elected string      `json:"elected"` // ID of the neighbour; "" is this node
	Alone   string      `json:"alone"`   // why this node asks for itself without an election; "" if there was one
	Refuses string      `json:"refuses"` // why this node would not do it for others; "" if it would
	Scores  []Candidate `json:"scores"`  // the highest first: that candidate is elected
	// Patience is the number of seconds for which the elected peer may receive nothing before this node downloads by
	// itself.
	Patience float64 `json:"patienceSeconds"`
}

// A Candidate is one of an election.
type Candidate struct {
	ID    string `json:"id"` // "" is this node
	Score string `json:"score"`
	Out   string `json:"out"` // why it is left out; "" if it is not
}

// Of is how many took part.
func (e Election) Of() (n int) {
	for _, c := range e.Scores {
		if c.Out == "" {
			n++
		}
	}
	return n
}

// Elect returns the peer that asks the upstreams about a hash part now, and why. No peer is asked for that.
func (n *Node) Elect(hp store.HashPart) Election {
	e := Election{Alone: n.alone(), Refuses: n.alone(), Scores: []Candidate{}, Patience: fetch.ProxyPatience.Seconds()}
	if len(n.cfg.Upstreams) > 0 && !n.cfg.NoCooperate {
		e.Alone = ""
	} else {
		return e
	}
	h := electorate(hp)
	who, others := n.elect(h, nil)
	if who != nil {
		e.Elected = who.ID.String()
	}
	if others == 0 {
		e.Alone = "no neighbour downloads for others"
	}
	if n.behalf.left(time.Now()) <= 0 && e.Refuses == "" {
		e.Refuses = "today's --upstream-budget is used up"
	}
	e.Scores = append(e.Scores, Candidate{Score: scoreText(n.lan.Host().ID(), h)})
	for _, nb := range n.neighbours.all() {
		if nb.Has(n.sign) {
			e.Scores = append(e.Scores, Candidate{ID: nb.ID.String(), Score: scoreText(nb.ID, h), Out: nb.LeftOut(time.Now())})
		}
	}
	slices.SortFunc(e.Scores, func(a, b Candidate) int { return cmp.Compare(b.Score, a.Score) })
	return e
}

func scoreText(id peer.ID, h store.Hash) string { return fmt.Sprintf("%016x", fetch.WeightSeed(id, h)) }

// LookupUpstream finds out what the upstreams say about a hash part, and returns a claim that can be believed. If there
// are neighbours that do so for each other, the one elected asks for all of them. The error wraps [store.ErrNotFound]
// only if the upstreams have none.
func (n *Node) LookupUpstream(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	who, _ := n.elect(electorate(hp), nil)
	if who == nil || n.secrets.check(ctx, hp) != nil {
		return n.upstreams.lookup(ctx, hp)
	}
	within := infoPatience
	if n.upstreams.down() { // the neighbour's may be, too, and it does not know that yet
		within = infoTimeout
	}
	v, text, err := who.AskInfo(ctx, hp, within)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			who.Tally.Pause(time.Now())
		}
	case v == wire.VerdictNone:
		return trust.Mapping{}, fmt.Errorf("%s: no upstream has it, says neighbour %s: %w", hp, who.ID, store.ErrNotFound)
	case v == wire.VerdictYes:
		if m, err := n.told(who, hp, text); err == nil {
			return m, nil
		}
	}
	return n.upstreams.lookup(ctx, hp)
}

// told returns what a neighbour says that an upstream says, if it can be believed.
func (n *Node) told(nb *peers.Neighbour, hp store.HashPart, text string) (trust.Mapping, error) {
	info, err := store.ParseInfo(text)
	if err == nil && info.Path.HashPart() != hp {
		err = fmt.Errorf("asked about %s, got %s: %w", hp, info.Path, peers.ErrName)
	}
	if err != nil {
		n.ledger.Strike(nb.ID, err)
		return trust.Mapping{}, err
	}
	return n.cfg.Trusted.Check(info) // what its keys believe, ours need not
}
