package p2p

import (
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// fileHolder is a rogue that has a file, and tells of it by that claim.
func fileHolder(t testing.TB, info store.Info, nar []byte, claim string) *rogue {
	t.Helper()
	return (&rogue{info: info, nar: nar, file: func(s network.Stream, _ trust.File) error {
		_, err := s.Write(wire.AppendClaim(nil, claim, false))
		return err
	}}).start(t)
}

// filesOf asks for a file until the answer will do, ten times at most: on a busy machine neighbours may answer too
// late.
func filesOf(t testing.TB, n *Node, f trust.File, do func([]trust.Mapping) bool) (found []trust.Mapping, err error) {
	t.Helper()
	for range 10 {
		if found, err = n.Files(t.Context(), f); do(found) {
			break
		}
	}
	return found, err
}

// A claim about a file that its path does not prove is a lie.
func TestFalseClaimsAboutAFileAreStruck(t *testing.T) {
	info, nar, f := trusttest.FetchedFile(t, "wanted", []byte("wanted"))
	another, _, g := trusttest.FetchedFile(t, "another", []byte("another"))
	signer := trusttest.NewSigner(t)
	signed, _ := signer.SignPath(t, info.Path, nar)
	signed.CA = info.CA
	with := func(edit func(*store.Info)) string {
		i := info
		edit(&i)
		return i.String()
	}
	for name, claim := range map[string]string{
		"another file":           another.String(),
		"another file's path":    with(func(i *store.Info) { i.Path = another.Path }),
		"another file's address": with(func(i *store.Info) { i.CA = g.String() }),
		"no address":             with(func(i *store.Info) { i.CA = "" }),
		"signed":                 signed.String(),
		"with a reference":       with(func(i *store.Info) { i.References = []store.Path{another.Path} }),
		"no narinfo":             "nonsense",
	} {
		liar := fileHolder(t, info, nar, claim)
		n, stop := runNode(t, signer, nil, liar)
		found, err := filesOf(t, n, f, func([]trust.Mapping) bool { return strikesOf(n, liar) > 0 })
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Files = %v, %v, want ErrNotFound", name, found, err)
		}
		if got := strikesOf(n, liar); got != 1 {
			t.Errorf("%s: %d strikes, want 1", name, got)
		}
		stop()
	}
	receiving := (&rogue{info: info, nar: nar, file: func(s network.Stream, _ trust.File) error {
		_, err := s.Write(wire.AppendClaim(nil, info.String(), true))
		return err
	}}).start(t)
	n, _ := runNode(t, signer, nil, receiving)
	found, err := filesOf(t, n, f, func([]trust.Mapping) bool { return strikesOf(n, receiving) > 0 })
	if !errors.Is(err, store.ErrNotFound) || strikesOf(n, receiving) != 1 {
		t.Errorf("a file that is being received: Files = %v, %v, and %d strikes, want ErrNotFound and 1", found, err,
			strikesOf(n, receiving))
	}
}

// Of claims that differ, the one of most neighbours is tried first, and few are tried at all.
func TestClaimsAboutAFileAreFew(t *testing.T) {
	info, nar, f := trusttest.FetchedFile(t, "wanted", []byte("wanted"))
	var holders []*rogue
	for range 2 {
		holders = append(holders, fileHolder(t, info, nar, info.String()))
	}
	for i := range 5 {
		made := info
		made.NarHash[0] ^= byte(i + 1)
		holders = append(holders, fileHolder(t, made, nar, made.String()))
	}
	n, _ := runNode(t, trusttest.NewSigner(t), nil, holders...)
	found, err := filesOf(t, n, f, func(found []trust.Mapping) bool { return len(found) == 4 && found[0].NarHash() == info.NarHash })
	if err != nil || len(found) != 4 {
		t.Fatalf("Files = %v, %v, want 4 claims", found, err)
	}
	if found[0].NarHash() != info.NarHash {
		t.Errorf("the first claim has NarHash %s, want %s, which two neighbours claim", found[0].NarHash(), info.NarHash)
	}
	sp, err := n.Fetch(t.Context(), found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	r, err := f.In(sp)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "wanted" || err != nil {
		t.Errorf("the file has %q, %v", got, err)
	}
	for i, m := range found[1:] {
		if sp, err := n.Fetch(t.Context(), m); err == nil {
			sp.Close()
			t.Errorf("made up claim %d yields a NAR", i)
		}
	}
}

// A NAR that has the NarHash of a claim, and is another file, does not reach Nix.
func TestFileIsVerifiedByTheHashAskedFor(t *testing.T) {
	info, _, f := trusttest.FetchedFile(t, "wanted", []byte("wanted"))
	nar := FileNAR([]byte("evil"))
	info.NarHash, info.NarSize = sha256.Sum256(nar), int64(len(nar))
	n, _ := runNode(t, trusttest.NewSigner(t), nil, fileHolder(t, info, nar, info.String()))
	found, err := filesOf(t, n, f, func(found []trust.Mapping) bool { return len(found) == 1 })
	if err != nil || len(found) != 1 {
		t.Fatalf("Files = %v, %v, want the claim", found, err)
	}
	if sp, err := n.Fetch(t.Context(), found[0]); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch of another file = %v, %v, want ErrNotFound", sp, err)
	}
}
