package serve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

func digestsOf(nar []byte) []byte {
	var all []byte
	for len(nar) > 0 {
		n := min(len(nar), store.BlockSize)
		d := sha256.Sum256(nar[:n])
		all, nar = append(all, d[:]...), nar[n:]
	}
	return all
}

func TestManifestsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	nar := p2ptest.Random(3*store.BlockSize + 1)
	hash, want := store.Hash(sha256.Sum256(nar)), digestsOf(nar)
	m, err := openManifests(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.put(hash, want); err != nil {
		t.Fatal(err)
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	if m, err = openManifests(dir); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if got := m.get(hash, 4); !bytes.Equal(got, want) {
		t.Errorf("get after another start = %x, want %x", got, want)
	}
	if got := m.get(hash, 5); got != nil {
		t.Errorf("get for a NAR of five blocks = %x, want nothing", got)
	}
}

func TestManifestsAreBounded(t *testing.T) {
	m, err := openManifests(filepath.Join(t.TempDir(), "manifests"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	big := make([]byte, maxManifests/2-32)
	for i := range byte(4) {
		if err := m.put(store.Hash{i}, big); err != nil {
			t.Fatal(err)
		}
		if m.used > maxManifests {
			t.Fatalf("%d bytes kept, want at most %d", m.used, maxManifests)
		}
	}
	for i, kept := range []bool{false, false, true, true} {
		if got := m.get(store.Hash{byte(i)}, len(big)/32); (got != nil) != kept {
			t.Errorf("NAR %d is kept: %v, want %v", i, got != nil, kept)
		}
	}
}

func TestManyManifestsAreBounded(t *testing.T) {
	m, err := openManifests(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.files = maxManifestFiles
	if err := m.put(store.Hash{1}, make([]byte, 32)); err != nil || m.files != 1 {
		t.Errorf("one more put = %v with %d files after it, want it to be the only one", err, m.files)
	}
}

func TestDamagedManifestsCountAsNone(t *testing.T) {
	dir := t.TempDir()
	m, err := openManifests(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	nar, digests := store.Hash{1, 2, 3}, p2ptest.Random(10*32)
	if err := m.put(nar, digests); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, hex.EncodeToString(nar[:]))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := [][]byte{nil, append(bytes.Clone(whole), 0)}
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		damaged = append(damaged, flipped, whole[:i])
	}
	for _, b := range damaged {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := m.get(nar, 10); got != nil {
			t.Fatalf("get from %x = %x, want nothing: the file held %x", b, got, whole)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, hex.EncodeToString(make([]byte, 32))), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := m.get(store.Hash{}, 10); got != nil {
		t.Error("the manifest of one NAR counts for another")
	}
}

// reads is a Source that counts the bytes read of its archives, and may spoil them.
type reads struct {
	store.Source
	bytes *atomic.Int64
	spoil bool
}

type readsNAR struct {
	store.NAR
	of reads
}

func (r reads) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := r.Source.NAR(ctx, info)
	return readsNAR{nar, r}, err
}

func (n readsNAR) ReadAt(p []byte, off int64) (int, error) {
	k, err := n.NAR.ReadAt(p, off)
	n.of.bytes.Add(int64(k))
	if n.of.spoil && off == 0 {
		p[0] ^= 1
	}
	return k, err
}

func TestManifestCostsNothingTwice(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(3*store.BlockSize + 1)
	info, m := s.Sign(t, "big", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	src := reads{mem, new(atomic.Int64), false}
	srv := newTestServer(t, s.Keys, src)
	kept, err := openManifests(filepath.Join(t.TempDir(), "manifests"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.close()
	srv.kept = kept
	stream := dial(t, srv, "asker", "127.0.0.1")
	br := bufio.NewReader(stream)
	for range 3 {
		r := wire.Request{Kind: wire.AskManifest, HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}
		send(stream, r)
		got, err := wire.ReadManifest(br, m.NarSize())
		if err != nil || len(got) != 4 || got[3] != sha256.Sum256(nar[3*store.BlockSize:]) {
			t.Fatalf("manifest = %v, %v, want the digests of four blocks", got, err)
		}
	}
	if got := src.bytes.Load(); got != int64(len(nar)) {
		t.Errorf("%d bytes read for three answers, want the NAR's %d once", got, len(nar))
	}
}

func TestManifestOfWhatIsWrongOnDiskIsNotKept(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(3*store.BlockSize + 1)
	info, m := s.Sign(t, "big", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	srv := newTestServer(t, s.Keys, reads{mem, new(atomic.Int64), true})
	kept, err := openManifests(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.close()
	srv.kept = kept
	stream := dial(t, srv, "asker", "127.0.0.1")
	r := wire.Request{Kind: wire.AskManifest, HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}
	send(stream, r)
	if _, err := wire.ReadManifest(bufio.NewReader(stream), m.NarSize()); err != nil {
		t.Fatal(err)
	}
	if got := kept.get(m.NarHash(), 4); got != nil {
		t.Errorf("a manifest that is wrong is kept: %x", got)
	}
}
