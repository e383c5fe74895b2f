package p2p

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

// chain makes a closure of count paths, each of which refers to the next.
func chain(t testing.TB, s trusttest.Signer, name string, count int) []store.Info {
	t.Helper()
	var infos []store.Info
	for i := range count {
		part := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
		path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + name)
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, store.Info{Path: path, NarHash: part, NarSize: 8})
	}
	for i := range infos {
		if i+1 < count {
			infos[i].References = []store.Path{infos[i+1].Path}
		}
		infos[i] = trusttest.Sign(t, s.Secret, infos[i])
	}
	return infos
}

// withFurther answers claims requests with info and nothing else, and adds further claims.
func (g *rogue) withFurther(asked *atomic.Int64, further ...furtherClaim) func(network.Stream, wire.Request) error {
	return func(s network.Stream, r wire.Request) error {
		asked.Add(int64(len(r.HashParts)))
		var out bytes.Buffer
		for _, hp := range r.HashParts {
			text := ""
			if hp == g.info.Path.HashPart() {
				text = g.info.String()
			}
			out.Write(wire.AppendClaim(nil, text, false))
		}
		for _, c := range further {
			raw := c.hp.Bytes()
			out.Write(append(binary.AppendUvarint(nil, uint64(len(c.text))), raw[:]...))
			out.WriteString(c.text)
		}
		out.WriteByte(0)
		_, err := s.Write(out.Bytes())
		return err
	}
}

// lookupAndHear looks a path up and waits until what its neighbour says beside the answer has come.
func lookupAndHear(t *testing.T, n *Node, hp store.HashPart) {
	t.Helper()
	find(t, n, hp)
	n.Lookup(t.Context(), p2ptest.PartB) // its answer comes after that, and no neighbour has it
}

func TestClosureComesWithItsFirstPath(t *testing.T) {
	s := trusttest.NewSigner(t)
	infos := chain(t, s, "chain", 5)
	g := &rogue{info: infos[0]}
	var asked atomic.Int64
	var further []furtherClaim
	for _, info := range infos[1:] {
		further = append(further, furtherClaim{info.Path.HashPart(), info.String()})
	}
	g.claims = g.withFurther(&asked, further...)
	n, _ := runNode(t, s, nil, g.start(t))
	lookupAndHear(t, n, infos[0].Path.HashPart())
	before := asked.Load()
	for _, info := range infos[1:] {
		m, err := n.Lookup(t.Context(), info.Path.HashPart())
		if err != nil || m.Path() != info.Path {
			t.Errorf("Lookup(%s) = %v, %v, want it", info.Path, m.Path(), err)
		}
		if got := n.lookups.Known(m); len(got) != 1 || got[0].Neighbour.ID != g.ID() {
			t.Errorf("holders of %s are %v, want the peers that told of it", info.Path, got)
		}
	}
	if got := asked.Load() - before; got != 0 {
		t.Errorf("%d questions were asked, want none", got)
	}
}

func TestNeighboursWithoutToldClaimAreAsked(t *testing.T) {
	s := trusttest.NewSigner(t)
	infos := chain(t, s, "chain", 2)
	teller, other := &rogue{info: infos[0]}, (&rogue{info: infos[1]}).start(t)
	var asked atomic.Int64
	teller.claims = teller.withFurther(&asked, furtherClaim{infos[1].Path.HashPart(), infos[1].String()})
	n, _ := runNode(t, s, nil, teller.start(t), other)
	lookupAndHear(t, n, infos[0].Path.HashPart())
	m := find(t, n, infos[1].Path.HashPart())
	if got := n.lookups.Holders(t.Context(), m, true); len(got) == 0 {
		t.Error("no neighbour has it")
	}
	if got := n.lookups.Known(m); len(got) != 1 || got[0].Neighbour.ID != other.ID() { // asked anew, the teller says no
		t.Errorf("holders are %v, want the other one", got)
	}
}

// The claim about a path with 17,000 references takes more than a megabyte.
func TestClaimLongerThanTheWireAllowsIsNotHere(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, _ := s.Sign(t, "many-refs", nar)
	for i := range 17_000 {
		sum := sha256.Sum256(fmt.Append(nil, i))
		ref, err := store.ParsePathName(fmt.Sprintf("%s-ref-%d-%s", nixbase32.EncodeToString(sum[:20]), i, strings.Repeat("x", 20)))
		if err != nil {
			t.Fatal(err)
		}
		info.References = append(info.References, ref)
	}
	info.References = store.SortPaths(info.References)
	info = trusttest.Sign(t, s.Secret, info)
	if got := len(info.String()); got <= store.MaxInfoLen {
		t.Fatalf("the claim has %d bytes, want more than %d", got, store.MaxInfoLen)
	}
	small, _ := s.Sign(t, "small", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	mem.Add(small, nar)
	holder, _ := runNode(t, s, []store.Source{mem})
	n, _ := runNode(t, s, nil, &rogue{Host: holder.lan.Host()})
	for range strikesToBan {
		if m, err := n.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Lookup(%s) = %v, %v, want ErrNotFound", info.Path, m.Path(), err)
		}
	}
	find(t, n, small.Path.HashPart())
	if st := n.Status(); len(st.Banned) != 0 || len(st.Neighbours) != 1 || st.Neighbours[0].Strikes != 0 {
		t.Errorf("banned are %v, neighbours are %+v, want one without a strike", st.Banned, st.Neighbours)
	}
}

func TestForgedFurtherClaimsAreNotBelieved(t *testing.T) {
	s := trusttest.NewSigner(t)
	infos := chain(t, s, "chain", 3)
	forged := infos[1]
	forged.NarHash[0]++
	g := &rogue{info: infos[0]}
	var asked atomic.Int64
	g.claims = g.withFurther(&asked, furtherClaim{forged.Path.HashPart(), forged.String()},
		furtherClaim{infos[2].Path.HashPart(), infos[1].String()}) // the second is about another path
	honest := (&rogue{info: infos[1]}).start(t)
	n, _ := runNode(t, s, nil, g.start(t), honest)
	lookupAndHear(t, n, infos[0].Path.HashPart())
	if m, err := n.Lookup(t.Context(), infos[1].Path.HashPart()); err != nil || m.NarHash() != infos[1].NarHash {
		t.Errorf("Lookup(%s) = %v, %v, want the honest one's", infos[1].Path, m.NarHash(), err)
	}
	if m, err := n.Lookup(t.Context(), infos[2].Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup(%s) = %v, %v, want ErrNotFound", infos[2].Path, m.Path(), err)
	}
	if got := strikesOf(n, g); got != 1 { // for the claim about another path; the signature may be of a key of the same name
		t.Errorf("the liar has %d strikes, want 1", got)
	}
	if got := strikesOf(n, honest); got != 0 {
		t.Errorf("the honest one has %d strikes", got)
	}
}

func TestFloodOfFurtherClaims(t *testing.T) {
	s := trusttest.NewSigner(t)
	infos := chain(t, s, "chain", 1)
	g := &rogue{info: infos[0]}
	var asked atomic.Int64
	flood := make([]furtherClaim, 10*wire.MaxFurther)
	for i := range flood {
		flood[i] = furtherClaim{p2ptest.PartA, "x"}
	}
	g.claims = g.withFurther(&asked, flood...)
	n, _ := runNode(t, s, nil, g.start(t))
	find(t, n, infos[0].Path.HashPart())
	eventually(t, "struck", func() bool { return strikesOf(n, g) > 0 })
}

// shared reads a node's answer to a question.
func shared(t *testing.T, n *Node, g *rogue, parts ...store.HashPart) (claims []string, further []furtherClaim) {
	t.Helper()
	s := g.dial(t, n)
	defer s.Reset()
	return sharedOn(t, s, parts...)
}

func sharedOn(t *testing.T, s network.Stream, parts ...store.HashPart) (claims []string, further []furtherClaim) {
	t.Helper()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := s.Write(wire.Request{Kind: wire.AskClaims, HashParts: parts}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(s)
	for range parts {
		text, _, err := wire.ReadClaim(br)
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, text)
	}
	if err := wire.ReadFurther(br, func(hp store.HashPart, text string) { further = append(further, furtherClaim{hp, text}) }); err != nil {
		t.Fatal(err)
	}
	return claims, further
}

func TestTellsOfAClosureOnceAndOfNothingElse(t *testing.T) {
	s := trusttest.NewSigner(t)
	infos := chain(t, s, "chain", wire.MaxFurther+10)
	mem := new(store.Mem)
	unsigned := 3
	for i, info := range infos {
		if i == unsigned {
			info.Signatures = nil
		}
		mem.Add(info, make([]byte, 8))
	}
	alone := chain(t, s, "alone", 1)[0]
	mem.Add(alone, make([]byte, 8))
	n, _ := runNode(t, s, []store.Source{mem})
	g := (&rogue{}).start(t)

	claims, further := shared(t, n, g, infos[0].Path.HashPart(), p2ptest.PartB)
	if claims[0] != infos[0].String() || claims[1] != "" {
		t.Errorf("claims are %q, want the first and nothing", claims)
	}
	for i, c := range further { // not the unsigned one, nor what only it leads to
		if want := infos[i+1]; c.hp != want.Path.HashPart() || c.text != want.String() {
			t.Errorf("further claim %d is %+v, want %s", i, c, want.Path)
		}
	}
	if len(further) != unsigned-1 {
		t.Errorf("%d further claims, want %d", len(further), unsigned-1)
	}
	if _, further = shared(t, n, g, infos[unsigned+1].Path.HashPart()); len(further) != wire.MaxFurther {
		t.Errorf("%d further claims of a long closure, want %d", len(further), wire.MaxFurther)
	}
	stream := g.dial(t, n)
	defer stream.Reset()
	for i, want := range []int{unsigned - 1, 0} {
		if _, further = sharedOn(t, stream, infos[0].Path.HashPart()); len(further) != want {
			t.Errorf("asked for the %d. time on a stream: %d further claims, want %d", i+1, len(further), want)
		}
	}
}
