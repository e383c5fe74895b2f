package serve

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"narbor/store"
	"narbor/trust"
)

func TestClaimsTellWhatIsSignedAndNoMore(t *testing.T) {
	s := newSigner(t)
	nar := random(100)
	path, ca := contentAddressed(t, "source", nar)
	info, _ := s.signPath(t, path, nar)
	want := info.String()
	info.CA, info.Deriver = ca, path
	info.Signatures = append(info.Signatures, "other-1:AAAA")
	mem := new(store.Mem)
	mem.Add(info, nar)
	sh := newSharer([]store.Source{mem}, nil, trust.Policy{Keys: s.keys})
	if got, err := sh.sharedClaim(t.Context(), path.HashPart()); err != nil || got.text != want {
		t.Errorf("sharedClaim = %q, %v, want %q", got.text, err, want)
	}
}

// Private sources are content-addressed, so a peer believes them without a signature.
func TestUnsignedContentIsNotShared(t *testing.T) {
	s := newSigner(t)
	nar := random(100)
	path, ca := contentAddressed(t, "private", nar)
	info := store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), CA: ca}
	m, err := s.keys.Check(info)
	if err != nil {
		t.Fatalf("Check = %v, want it believed", err)
	}
	mem := new(store.Mem)
	mem.Add(info, nar)
	sh := newSharer([]store.Source{mem}, nil, trust.Policy{Keys: s.keys})
	if c, err := sh.sharedClaim(t.Context(), path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("sharedClaim = %q, %v, want ErrNotFound", c.text, err)
	}
	if n, _, err := sh.readBlock(t.Context(), blockRequest(info, 0), make([]byte, store.BlockSize)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("readBlock = %d, %v, want ErrNotFound", n, err)
	}
	sh.arriving = new(arrivals)
	if _, ok := sh.May(m); ok {
		t.Errorf("may(%s) = true while it is received", info.CA)
	}
}

func TestNARsHeldOpenAreBounded(t *testing.T) {
	s := newSigner(t)
	mem, infos := new(store.Mem), []store.Info{}
	for i := range 3 * maxOpenNARs {
		nar := random(10 + i)
		info, _ := s.sign(t, fmt.Sprintf("p%d", i), nar)
		mem.Add(info, nar)
		infos = append(infos, info)
	}
	src := &counted{Source: mem, t: t}
	sh := newSharer([]store.Source{src}, nil, trust.Policy{Keys: s.keys})
	for _, info := range infos {
		if _, _, err := sh.readBlock(t.Context(), blockRequest(info, 0), make([]byte, store.BlockSize)); err != nil &&
			!strings.Contains(err.Error(), "bad day") {
			t.Fatal(err)
		}
		if open := src.open.Load(); open > maxOpenNARs {
			t.Fatalf("%d NARs are open, want at most %d", open, maxOpenNARs)
		}
	}
}

// A deadlined stream notes the last deadline that was set for writing.
type deadlined struct {
	network.Stream
	deadline time.Time
}

func (d *deadlined) Write(p []byte) (int, error) { return len(p), nil }

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.deadline = t
	return nil
}

func TestAnswersHaveADeadline(t *testing.T) {
	d := &deadlined{}
	if _, err := (stallWriter{d, newTurns(1, 1, 1)}).Write([]byte("answer")); err != nil || d.deadline.IsZero() ||
		time.Until(d.deadline) > serveStall {
		t.Errorf("Write = %v with deadline %v, want one within %v", err, d.deadline, serveStall)
	}
	scarce := newTurns(maxServing, maxServing, maxServing)
	for range maxServing/2 + 1 {
		if _, err := scarce.take(t.Context(), Asker{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (stallWriter{d, scarce}).Write([]byte("answer")); err != nil || time.Until(d.deadline) > scarceStall {
		t.Errorf("Write when turns are scarce = %v with deadline %v, want one within %v", err, d.deadline, scarceStall)
	}
}

func contentAddressed(t testing.TB, name string, nar []byte) (path store.Path, ca string) {
	hash := store.Hash(sha256.Sum256(nar))
	sum := sha256.Sum256([]byte("source:sha256:" + hex.EncodeToString(hash[:]) + ":" + store.Dir + ":" + name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(nixhash.CompressHash(sum[:], 20)) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return path, "fixed:r:" + hash.String()
}
