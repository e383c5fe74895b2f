package serve

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/offered"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A holder shares what it has without signatures, and takes offers.
type holder struct {
	*Server
	upstream trusttest.Signer
	kept     int // how many signatures were kept
}

// newHolder makes a holder of paths with their NARs.
func newHolder(t *testing.T, upstream trusttest.Signer, paths map[string]store.Info, nars map[string][]byte) *holder {
	t.Helper()
	book, err := offered.Open("")
	if err != nil {
		t.Fatal(err)
	}
	mem := new(store.Mem)
	for name, info := range paths {
		mem.Add(info, nars[name])
	}
	h := &holder{Server: newTestServer(t, upstream.Keys, book.Source(mem)), upstream: upstream}
	h.cfg.Keep = func(info store.Info, sigs []string, from string) error {
		h.kept++
		return book.Keep(info, sigs, from)
	}
	return h
}

func offerOf(info store.Info) wire.Request {
	info.CA, info.Deriver = "", store.Path{}
	return wire.Request{Kind: wire.AskOffer, HashParts: []store.HashPart{info.Path.HashPart()}, Offer: info}
}

// answered returns the byte that answers an offer.
func answered(t *testing.T, c net.Conn, r wire.Request) byte {
	t.Helper()
	send(c, r)
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

// shares reports whether a lookup finds a path.
func (h *holder) shares(info store.Info) bool {
	_, err := h.claim(context.Background(), info.Path.HashPart())
	return err == nil
}

func TestOfferedSignatureMakesAHolder(t *testing.T) {
	up, nar := trusttest.NewSigner(t), fileNAR(p2ptest.Random(1000))
	signed, _ := up.Sign(t, "image", nar)
	unsigned := signed
	unsigned.Signatures = nil
	h := newHolder(t, up, map[string]store.Info{"image": unsigned}, map[string][]byte{"image": nar})
	if h.shares(unsigned) {
		t.Fatal("an unsigned path is shared")
	}
	stream := dial(t, h.Server, "asker", "127.0.0.1")
	if got := answered(t, stream, offerOf(signed)); got != 1 || !h.shares(signed) || h.kept != 1 {
		t.Errorf("the offer is answered %d, the path is shared: %t, %d signatures are kept, want 1, true and 1", got, h.shares(signed),
			h.kept)
	}
	if got := answered(t, stream, offerOf(signed)); got != 1 || h.kept != 1 {
		t.Errorf("the second offer is answered %d, and %d signatures are kept, want 1 and 1", got, h.kept)
	}
	h.Share(false)
	if got := answered(t, stream, offerOf(signed)); got != 0 {
		t.Errorf("without sharing the offer is answered %d, want 0", got)
	}
}

// Nothing but a signature of a public key for exactly what the source has is taken, and a refusal is no strike: its
// peer may be honest, and have other keys, or the source another content.
func TestOffersThatAreRefused(t *testing.T) {
	up, other, nar := trusttest.NewSigner(t), trusttest.NewSignerNamed(t, "other-1"), fileNAR(p2ptest.Random(1000))
	sameName := trusttest.NewSigner(t)
	signed, _ := up.Sign(t, "path", nar)
	another, _ := up.Sign(t, "another", nar)
	drv, _ := up.Sign(t, "path.drv", nar)
	foreign, _ := other.Sign(t, "path", nar)
	forged, _ := sameName.Sign(t, "path", nar)
	ofAnother := signed
	ofAnother.Signatures = another.Signatures
	poison, _ := up.Sign(t, "path", fileNAR(p2ptest.Random(1001)))
	source := signed
	source.CA = "fixed:r:" + signed.NarHash.String()
	for name, c := range map[string]struct {
		has   func(*store.Info)
		offer store.Info
	}{
		"signature by an unknown key":               {func(*store.Info) {}, foreign},
		"wrong signature in a known key's name":     {func(*store.Info) {}, forged},
		"signature of another path":                 {func(*store.Info) {}, ofAnother},
		"another NarHash here":                      {func(i *store.Info) { i.NarHash[0]++ }, signed},
		"another NarSize here":                      {func(i *store.Info) { i.NarSize++ }, signed},
		"other references here":                     {func(i *store.Info) { i.References = []store.Path{another.Path} }, signed},
		"another NarHash signed":                    {func(*store.Info) {}, poison},
		"built here":                                {func(i *store.Info) { i.Ultimate = true }, signed},
		"derivation":                                {func(i *store.Info) { i.Path = drv.Path }, drv},
		"not here":                                  {func(i *store.Info) { i.Path = another.Path }, signed},
		"own build with the address of its content": {func(i *store.Info) { i.Ultimate, i.CA = true, source.CA }, signed},
	} {
		here := signed
		here.Signatures = nil
		c.has(&here)
		h := newHolder(t, up, map[string]store.Info{"path": here}, map[string][]byte{"path": nar})
		stream := dial(t, h.Server, "asker", "127.0.0.1")
		if got := answered(t, stream, offerOf(c.offer)); got != 0 || h.kept != 0 || h.shares(here) {
			t.Errorf("%s: the offer is answered %d, %d signatures are kept, the path is shared: %t, want 0, 0 and false", name, got, h.kept,
				h.shares(here))
		}
		if n := h.cfg.Ledger.TallyOf("asker").Strikes.Load(); n != 0 {
			t.Errorf("%s: %d strikes", name, n)
		}
	}
}

// A path that one source calls built here is not shared by another, whatever is offered.
func TestOfferDoesNotUncoverABuildByACopy(t *testing.T) {
	up, nar := trusttest.NewSigner(t), fileNAR(p2ptest.Random(1000))
	signed, _ := up.Sign(t, "path", nar)
	built, copied := signed, signed
	built.Ultimate, built.Signatures, copied.Signatures = true, nil, nil
	own, cache := new(store.Mem), new(store.Mem)
	own.Add(built, nar)
	cache.Add(copied, nar)
	srv := newTestServer(t, up.Keys, own, cache)
	srv.policy = trust.Policy{Keys: up.Keys, Circle: up.Keys}
	kept := false
	srv.cfg.Keep = func(store.Info, []string, string) error { kept = true; return nil }
	if got := answered(t, dial(t, srv, "asker", "127.0.0.1"), offerOf(signed)); got != 0 || kept {
		t.Errorf("the offer is answered %d, the signature is kept: %t, want 0 and false", got, kept)
	}
}

// An offer costs a miss before its signature is verified, so that a peer has a budget. One that is taken gives the miss
// back: an asker may have thousands of paths that were imported here.
func TestOffersHaveAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, nar := trusttest.NewSigner(t), fileNAR(p2ptest.Random(10))
		signed, _ := up.Sign(t, "path", nar)
		unsigned := signed
		unsigned.Signatures = nil
		absent, _ := up.Sign(t, "absent", nar)
		h := newHolder(t, up, map[string]store.Info{"path": unsigned}, map[string][]byte{"path": nar})
		stream := dial(t, h.Server, "flooder", "127.0.0.1")
		frame := offerOf(absent).Append(nil)
		go stream.Write(bytes.Repeat(frame, missBurst+1))
		if _, err := io.ReadFull(stream, make([]byte, missBurst+1)); err != nil {
			t.Fatal(err)
		}
		if got := answered(t, stream, offerOf(signed)); got != 0 || h.kept != 0 {
			t.Errorf("after %d offers, one of a path here is answered %d, %d are kept, want 0 and 0", missBurst+1, got, h.kept)
		}
		if left := h.quotas.peer("flooder", netip.MustParseAddr("127.0.0.1")).misses.left; left != narMisses {
			t.Errorf("%.0f misses are left for blocks, want %d", left, narMisses)
		}
		if got := answered(t, dial(t, h.Server, "honest", "127.0.0.2"), offerOf(signed)); got != 1 {
			t.Errorf("another peer's offer is answered %d, want 1", got)
		}
		if cost := h.quotas.peer("honest", netip.MustParseAddr("127.0.0.2")).misses.taken(); cost != 0 {
			t.Errorf("an offer that is taken has cost %.2f misses, want none", cost)
		}
	})
}
