package serve

import (
	"bufio"
	"bytes"
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
	public, private := trusttest.NewSignerNamed(t, "public-1"), trusttest.NewSignerNamed(t, "private-1")
	circle := trusttest.NewSignerNamed(t, "circle-1")
	all := new(trust.Keys)
	if err := all.Replace([]string{public.Secret.ToPublicKey().String(), private.Secret.ToPublicKey().String()}); err != nil {
		t.Fatal(err)
	}
	source := func(name string) store.Info {
		info := trusttest.SourceClaim(t, name, fileNAR([]byte(name)))
		info.Fetched = true
		return info
	}
	signed := func(s trusttest.Signer, name string) store.Info {
		info, _ := s.Sign(t, name, fileNAR([]byte(name)))
		return info
	}
	paths := map[trust.Kind]store.Info{trust.KindPublic: signed(public, "public"), trust.KindOffered: signed(public, "offered"),
		trust.KindPrivate: signed(private, "private"), trust.KindSource: source("source"), trust.KindGit: source("git"),
		trust.KindOwn: signed(circle, "own"), trust.KindKept: signed(trusttest.NewSigner(t), "kept")}
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
	srv.policy.Public, srv.policy.Circle, srv.policy.Fetched = public.Keys, circle.Keys, true
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
	s := trusttest.NewSigner(t)
	lib, _ := s.Sign(t, "lib", fileNAR([]byte("lib")))
	app, _ := s.Sign(t, "app", fileNAR([]byte("app")))
	app.References = []store.Path{lib.Path}
	app = trusttest.Sign(t, s.Secret, app)
	mem := new(store.Mem)
	mem.Add(app, fileNAR([]byte("app")))
	mem.Add(lib, fileNAR([]byte("lib")))
	srv := newTestServer(t, s.Keys, mem)
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
