package serve

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

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
	send(c, wire.Request{Kind: wire.AskFile, File: f})
	text, receiving, err := wire.ReadClaim(bufio.NewReader(c))
	if err != nil || receiving {
		t.Fatalf("the answer is %q, receiving: %t, %v", text, receiving, err)
	}
	return text
}

// missesOf returns the misses that questions of the asker have cost.
func missesOf(srv *Server) float64 {
	return srv.quotas.peer("asker", netip.MustParseAddr("127.0.0.1")).misses.taken()
}

// A file is found by its hash if its path may be given away, and not else.
func TestFileIsFoundByItsHash(t *testing.T) {
	s := trusttest.NewSigner(t)
	fetched, nar, f := trusttest.FetchedFile(t, "one.tar.gz", []byte("one"))
	_, _, another := trusttest.FetchedFile(t, "one.tar.gz", []byte("another"))
	signed, _ := s.SignPath(t, fetched.Path, nar)
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
		synctest.Test(t, func(t *testing.T) {
			info := fetched
			c.edit(&info, newTestServer(t, s.Keys))
			srv := sharingFile(t, s.Keys, info, nar)
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
			if cost := missesOf(srv); c.found && cost != 0 || !c.found && cost != 1 && srv.Sharing() {
				t.Errorf("%s: the question has cost %.2f misses", name, cost)
			}
		})
	}
}

// The names of all paths are read for a peer, and for its machine, so many times and no more.
func TestQuestionsForFilesHaveAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info, nar, f := trusttest.FetchedFile(t, "one", []byte("one"))
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

// The bound for all machines is what missMachines of them may have.
func TestQuestionsForFilesOfAllMachinesHaveAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newTestServer(t, new(trust.Keys))
		read := 0
		for i := range missMachines + 1 {
			for j := range missShares {
				c := srv.ClientOn(connFrom{addr: netip.MustParseAddr(fmt.Sprint("127.0.0.", i+1)), id: peer.ID(fmt.Sprint(i, j))})
				for range fileBurst {
					if srv.spendFile(c) {
						read++
					}
				}
			}
		}
		if want := fileBurst * missShares * missMachines; read != want {
			t.Errorf("the names may be read %d times, want %d", read, want)
		}
	})
}

// What was not looked for is not the asker's fault.
func TestQuestionsForFilesThatAreNotLookedForCostNoMiss(t *testing.T) {
	info, nar, f := trusttest.FetchedFile(t, "one", []byte("one"))
	for name, fail := range map[string]func(*Server){
		"the source fails": func(srv *Server) { srv.sources = []store.Source{failing{}} },
		"the names cannot be read": func(srv *Server) {
			srv.cfg.Called = func(context.Context, func(string) store.HashPart) ([]store.HashPart, error) {
				return nil, os.ErrPermission
			}
		},
		"the names were read too often": func(srv *Server) { srv.quotas.files.SetBurst(0) },
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := sharingFile(t, new(trust.Keys), info, nar)
			fail(srv)
			text := fileFrom(t, dial(t, srv, "asker", "127.0.0.1"), f)
			if cost := missesOf(srv); text != "" || cost != 0 {
				t.Errorf("%s: the answer is %q, and has cost %.2f misses, want none and 0", name, text, cost)
			}
		})
	}
}

// A turn to have the names read is no longer than that: the readers here read no answer, and others get theirs. A peer
// that waits for a turn gets an answer when it has gone on without one.
func TestTurnsForFilesAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info, nar, f := trusttest.FetchedFile(t, "one", []byte("one"))
		srv := sharingFile(t, new(trust.Keys), info, nar)
		for i := range maxNaming {
			stuck := dial(t, srv, peer.ID(fmt.Sprint("stuck ", i)), fmt.Sprint("127.0.0.", i+2))
			send(stuck, slices.Repeat([]wire.Request{{Kind: wire.AskFile, File: f}}, 100)...)
		}
		synctest.Wait()
		start, asker := time.Now(), dial(t, srv, "asker", "127.0.0.1")
		if text, took := fileFrom(t, asker, f), time.Since(start); text == "" || took != 0 {
			t.Errorf("beside readers that are stuck the answer is %q after %s, want the claim at once", text, took)
		}
		for i := range maxNaming {
			if _, ok := srv.naming.try(Asker{p2ptest.Addr(i), "reads"}); !ok {
				t.Fatal("no turn is free")
			}
		}
		if text, took := fileFrom(t, asker, f), time.Since(start); text != "" || took != peers.BusyTimeout {
			t.Errorf("without a turn the answer is %q after %s, want none after %s", text, took, peers.BusyTimeout)
		}
	})
}
