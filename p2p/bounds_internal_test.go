package p2p

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

// A promised length is believed once that many bytes have come.
func TestPromisedLengthsReserveNothing(t *testing.T) {
	for name, read := range map[string]func() error{
		"claim": func() error {
			_, _, err := wire.ReadClaim(bufio.NewReader(bytes.NewReader(binary.AppendUvarint(nil, store.MaxInfoLen<<1))))
			return err
		},
		"manifest": func() error {
			n := uint64(store.NumBlocks(store.MaxNarSize))
			_, err := wire.ReadManifest(bufio.NewReader(bytes.NewReader(binary.AppendUvarint(nil, n))), store.MaxNarSize)
			return err
		},
	} {
		least := uint64(math.MaxUint64) // what ends of earlier tests allocate meanwhile does not count
		for range 10 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := read(); err == nil {
				t.Errorf("%s: the error is nil", name)
			}
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		if least > 256<<10 {
			t.Errorf("%s: %d KiB are taken for nothing but a promise", name, least>>10)
		}
	}
}

func TestClaimAboutAnotherPathIsALie(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "known", p2ptest.Random(100))
	g := (&rogue{claims: func(s network.Stream, r wire.Request) error {
		_, err := s.Write(append(wire.AppendClaim(nil, info.String(), false), 0)) // nothing further
		return err
	}}).start(t)
	n, _ := runNode(t, s, nil, g)
	if m, err := n.Lookup(t.Context(), p2ptest.PartA); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup(%s) = %s, %v, want ErrNotFound", p2ptest.PartA, m.Path(), err)
	}
	eventually(t, "struck", func() bool { return strikesOf(n, g) > 0 }) // on a busy machine after Lookup has given up
	if got := strikesOf(n, g); got != 1 {
		t.Errorf("it has %d strikes, want 1", got)
	}
}

// The stream lives on after each of these.
func TestWhatIsNotOfThisNARIsNotHere(t *testing.T) {
	n, info := sharing(t, p2ptest.Random(1000))
	s := (&rogue{}).start(t).dial(t, n)
	defer s.Reset()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	br, other := bufio.NewReader(s), info
	other.NarHash[0]++
	for what, r := range map[string]wire.Request{"a block beyond the end": blockRequest(info, 1),
		"the last of all blocks": blockRequest(info, store.NumBlocks(store.MaxNarSize)-1),
		"another NarHash":        blockRequest(other, 0)} {
		s.Write(r.Append(nil))
		if _, _, err := wire.ReadBlock(br, make([]byte, 1000)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: readBlock = %v, want ErrNotFound", what, err)
		}
	}
	s.Write(blockRequest(info, 0).Append(nil))
	if _, _, err := wire.ReadBlock(br, make([]byte, 1000)); err != nil {
		t.Errorf("readBlock = %v after that", err)
	}
}

func TestSilentBlockEndsInTime(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, _ := s.Sign(t, "small", nar)
	silent := make(chan struct{})
	defer close(silent)
	g := (&rogue{info: info, nar: nar, block: func(network.Stream, int, []byte) error { <-silent; return errEnd }}).start(t)
	n, _ := runNode(t, s, nil, g)
	ex, err := n.neighbours.All()[0].Open(t.Context(), 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer ex.Reset()
	ended := make(chan error, 1)
	go func() {
		err := ex.Send(blockRequest(info, 0))
		if err == nil {
			_, _, err = wire.ReadBlock(ex.Reader, make([]byte, len(nar)))
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("readBlock = nil, want an error")
		}
	case <-time.After(20 * time.Second):
		t.Error("readBlock waits for a silent peer")
	}
}

// No block of a fetch can trickle for ever: the deadline of the last one is recorded in the kept stream.
func TestBlocksOfAFetchHaveADeadline(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	g := (&rogue{info: info, nar: nar}).start(t)
	n, _ := runNode(t, s, nil, g)
	fetchAll(t, n, m, nar)
	nb := n.neighbours.All()[0]
	ex, err := nb.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ex.Reset()
	if !ex.Kept || ex.Until.IsZero() || time.Until(ex.Until) > fetch.BlockTimeout {
		t.Errorf("stream after a fetch: kept is %v, and its block was due in %v, want within %v", ex.Kept, time.Until(ex.Until),
			fetch.BlockTimeout)
	}
}

// A peer that has sent a wrong NAR is asked no more in that fetch, even if no other has the NAR.
func TestOneFetchGetsOneWrongNAR(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	g := (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, b []byte) error {
		lie := bytes.Clone(b)
		lie[0] ^= 1
		return writeRaw(s, lie)
	}}).start(t)
	n, _ := runNode(t, s, nil, g)
	if sp, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
	if got := n.ledger.TallyOf(g.ID()); got.BlocksReceived.Load() != 1 || got.CountWrong(time.Now()) != 1 || got.Strikes.Load() != 0 {
		t.Errorf("it has sent %d blocks and %d wrong NARs, and has %d strikes, want 1, 1 and 0", got.BlocksReceived.Load(),
			got.CountWrong(time.Now()), got.Strikes.Load())
	}
}

// A NAR in the spool has its hash, but a content address may ask for more: here, that it is a plain file's.
func TestSpooledNARIsCheckedForEachPath(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	_, signed := s.Sign(t, "signed", nar)
	flat := flatPath(t, "flat", []byte("contents"))
	flat.NarHash, flat.NarSize = sha256.Sum256(nar), int64(len(nar))
	claimed, err := s.Keys.Check(flat)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := runNode(t, s, nil)
	draft, err := n.cfg.Spool.Create(signed.NarHash(), signed.NarSize())
	if err != nil {
		t.Fatal(err)
	}
	draft.WriteAt(nar, 0)
	sp, err := draft.Commit(signed.CheckNAR)
	if err != nil {
		t.Fatal(err)
	}
	sp.Close()
	if sp, err := n.FetchShared(t.Context(), claimed); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("FetchShared(%s) = %v, %v, want ErrCorrupt", flat.CA, sp, err)
	}
	if n.downloads.Spooled(claimed) || !n.downloads.Spooled(signed) {
		t.Error("the NAR in the spool is passed on as another path's, or not as its own")
	}
	fetchAll(t, n, signed, nar)
}

// flatPath is a claim, without its NAR, about a path that holds one file and needs no signature.
func flatPath(t testing.TB, name string, contents []byte) store.Info {
	t.Helper()
	hash := store.Hash(sha256.Sum256(contents))
	sum := sha256.Sum256(fmt.Appendf(nil, "text:sha256:%x:%s:%s", hash[:], store.Dir, name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(nixhash.CompressHash(sum[:], 20)) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return store.Info{Path: path, CA: "text:" + hash.String()}
}
