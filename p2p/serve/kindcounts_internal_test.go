package serve

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"io"
	"net/netip"
	"strings"
	"testing"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/offered"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// Each path counts as what it is: when it is asked for, and when a block of it is sent.
func TestSharedKindsAreCounted(t *testing.T) {
	public, private, circle := signerNamed(t, "public-1"), signerNamed(t, "private-1"), signerNamed(t, "circle-1")
	all := new(trust.Keys)
	if err := all.Replace([]string{public.secret.ToPublicKey().String(), private.secret.ToPublicKey().String()}); err != nil {
		t.Fatal(err)
	}
	source := func(name string) store.Info {
		nar := fileNAR([]byte(name))
		path, ca := contentAddressed(t, name, nar)
		return store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), CA: ca, Fetched: true}
	}
	signed := func(s signer, name string) store.Info {
		info, _ := s.sign(t, name, fileNAR([]byte(name)))
		return info
	}
	paths := map[trust.Kind]store.Info{trust.KindPublic: signed(public, "public"), trust.KindOffered: signed(public, "offered"),
		trust.KindPrivate: signed(private, "private"), trust.KindSource: source("source"), trust.KindGit: source("git"),
		trust.KindOwn: signed(circle, "own"), trust.KindKept: signed(newSigner(t), "kept")}
	book, err := offered.Open("")
	if err != nil {
		t.Fatal(err)
	}
	mem := new(store.Mem)
	for kind, info := range paths {
		switch kind {
		case trust.KindGit:
			info.Git = true
		case trust.KindOwn:
			info.Ultimate = true
		case trust.KindOffered:
			if err := book.Keep(info, info.Signatures, "peer"); err != nil {
				t.Fatal(err)
			}
			info.Signatures = nil
		}
		mem.Add(info, fileNAR([]byte(info.Path.Name())))
	}
	srv := newTestServer(t, all, book.Source(mem))
	srv.policy.Public, srv.policy.Circle, srv.policy.Fetched = public.keys, circle.keys, true
	c := srv.ClientOn(connFrom{addr: netip.MustParseAddr("192.0.2.1"), id: "asker"})
	for kind, info := range paths {
		ask := wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}
		if err := srv.answerClaims(t.Context(), c, answers{bufio.NewWriter(io.Discard), new(toldParts)}, ask); err != nil {
			t.Fatal(err)
		}
		want := KindCount{Asked: 1, Sent: info.NarSize}
		if kind == trust.KindKept {
			want.Sent = 0
		} else if b, err := srv.prepare(t.Context(), c, blockRequest(info, 0)); err != nil {
			t.Errorf("a block of a path of kind %s: %v", kind, err)
		} else {
			b.Free()
		}
		if got := srv.Counts()[kind]; got != want {
			t.Errorf("%s: %+v, want %+v", kind, got, want)
		}
	}
	for name, info := range map[string]store.Info{"a derivation": signed(public, "x.drv"), "absent": signed(public, "absent")} {
		if name != "absent" {
			mem.Add(info, fileNAR([]byte(info.Path.Name())))
		}
		before := srv.Counts()[trust.KindKept].Asked
		_, _ = srv.claimTo(t.Context(), c, info.Path.HashPart())
		if after := srv.Counts()[trust.KindKept].Asked; (after > before) != (name != "absent") {
			t.Errorf("%s: %d questions about paths that stay here after %d", name, after, before)
		}
	}
}

// A reference that is told unasked does not count, until it is asked for.
func TestPathsToldUnaskedAreNotCounted(t *testing.T) {
	s := newSigner(t)
	lib, _ := s.sign(t, "lib", fileNAR([]byte("lib")))
	app, _ := s.sign(t, "app", fileNAR([]byte("app")))
	app.References = []store.Path{lib.Path}
	app = trusttest.Sign(t, s.secret, app)
	mem := new(store.Mem)
	mem.Add(app, fileNAR([]byte("app")))
	mem.Add(lib, fileNAR([]byte("lib")))
	srv := newTestServer(t, s.keys, mem)
	c := srv.ClientOn(connFrom{addr: netip.MustParseAddr("192.0.2.1"), id: "asker"})
	for i, info := range []store.Info{app, lib} {
		var told bytes.Buffer
		w := answers{bufio.NewWriter(&told), new(toldParts)}
		ask := wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}
		if err := srv.answerClaims(t.Context(), c, w, ask); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(told.String(), "StorePath: "+lib.Path.String()+"\n") {
			t.Errorf("after a question about %s lib is not told of: %q", info.Path, &told)
		}
		if got := srv.Counts()[trust.KindPublic].Asked; got != int64(i+1) {
			t.Errorf("after a question about %s %d count, want %d", info.Path, got, i+1)
		}
	}
}
