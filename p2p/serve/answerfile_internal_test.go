package serve

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// fileNamed makes the unsigned path of a fetched file, and its NAR.
func fileNamed(t testing.TB, name string, contents []byte) (store.Info, []byte, trust.File) {
	t.Helper()
	sum := sha256.Sum256(contents)
	f, err := trust.ParseFile("sha256", hex.EncodeToString(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	path, err := store.ParsePathName(string(f.PathCalled(name)) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	nar := fileNAR(contents)
	return store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), CA: f.String(), Fetched: true}, nar, f
}

// sharingFile makes a server that has a path, and finds it by its name.
func sharingFile(t testing.TB, keys *trust.Keys, info store.Info, nar []byte) *Server {
	t.Helper()
	mem := new(store.Mem)
	mem.Add(info, nar)
	srv := newTestServer(t, keys, mem)
	srv.policy.Fetched = true
	srv.cfg.Called = func(_ context.Context, at func(string) store.HashPart) ([]store.HashPart, error) {
		if hp := info.Path.HashPart(); at(info.Path.Name()) == hp {
			return []store.HashPart{hp}, nil
		}
		return nil, nil
	}
	return srv
}

// fileFrom asks for a file on a stream.
func fileFrom(t testing.TB, c net.Conn, f trust.File) string {
	t.Helper()
	send(c, wire.FileRequest(f))
	text, receiving, err := wire.ReadClaim(bufio.NewReader(c))
	if err != nil || receiving {
		t.Fatalf("the answer is %q, receiving: %t, %v", text, receiving, err)
	}
	return text
}

// A file is found by its hash if its path may be given away, and not else.
func TestFileIsFoundByItsHash(t *testing.T) {
	s := newSigner(t)
	fetched, nar, f := fileNamed(t, "one.tar.gz", []byte("one"))
	_, _, another := fileNamed(t, "one.tar.gz", []byte("another"))
	signed, _ := s.signPath(t, fetched.Path, nar)
	for name, c := range map[string]struct {
		edit  func(*store.Info, *Server)
		ask   trust.File
		found bool
	}{
		"fetched":                {func(*store.Info, *Server) {}, f, true},
		"another hash":           {func(*store.Info, *Server) {}, another, false},
		"copied in":              {func(i *store.Info, _ *Server) { i.Fetched = false }, f, false},
		"built here":             {func(i *store.Info, _ *Server) { i.Fetched, i.Ultimate = false, true }, f, false},
		"sources are not shared": {func(_ *store.Info, srv *Server) { srv.policy.Fetched = false }, f, false},
		"signed": {func(i *store.Info, srv *Server) {
			srv.policy.Fetched = false
			i.Fetched, i.Signatures = false, signed.Signatures
		}, f, true},
		"nothing is shared":   {func(_ *store.Info, srv *Server) { srv.Share(false) }, f, false},
		"no store with names": {func(_ *store.Info, srv *Server) { srv.cfg.Called = nil }, f, false},
	} {
		info := fetched
		c.edit(&info, newTestServer(t, s.keys))
		srv := sharingFile(t, s.keys, info, nar)
		c.edit(&info, srv)
		text := fileFrom(t, dial(t, srv, "asker", "127.0.0.1"), c.ask)
		if (text != "") != c.found {
			t.Errorf("%s: the claim is %q, want one: %t", name, text, c.found)
		}
		want := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: \nCA: %s\n", fetched.Path, fetched.NarHash,
			fetched.NarSize, f)
		if c.found && text != want {
			t.Errorf("%s: the claim is %q, want %q", name, text, want)
		}
		cost := srv.quotas.peer("asker", netip.MustParseAddr("127.0.0.1")).misses.taken()
		if c.found && cost != 0 || !c.found && cost < 0.9 && srv.Sharing() {
			t.Errorf("%s: the question has cost %.2f misses", name, cost)
		}
	}
}

// The names of all paths are read for a peer, and for its machine, so many times and no more.
func TestQuestionsForFilesHaveAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info, nar, f := fileNamed(t, "one", []byte("one"))
		srv := sharingFile(t, new(trust.Keys), info, nar)
		read := 0
		called := srv.cfg.Called
		srv.cfg.Called = func(ctx context.Context, at func(string) store.HashPart) ([]store.HashPart, error) {
			read++
			return called(ctx, at)
		}
		for i := range missShares + 1 {
			stream := dial(t, srv, peer.ID(fmt.Sprint("peer ", i)), "127.0.0.1")
			for range fileBurst + 1 {
				fileFrom(t, stream, f)
			}
			if want := fileBurst * min(i+1, missShares); read != want {
				t.Errorf("after %d questions of %d peers the names are read %d times, want %d", fileBurst+1, i+1, read, want)
			}
		}
		if text := fileFrom(t, dial(t, srv, "another machine", "127.0.0.2"), f); text == "" {
			t.Error("another machine does not get the file")
		}
	})
}
