package serve

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A failing source cannot be asked.
type failing struct{ store.Source }

var errFailing = errors.New("the daemon does not answer")

func (failing) Info(context.Context, store.HashPart) (store.Info, error) {
	return store.Info{}, errFailing
}

// A damaged source has paths with content that differs from their claims.
type damaged struct{ store.Source }

func (d damaged) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	info, err := d.Source.Info(ctx, hp)
	return info, errors.Join(err, store.ErrNotFound, store.ErrDamaged)
}

// A path that stays here stays here in every source that has a copy of it.
func TestOwnBuildsAndDerivationsAreNotShared(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(1000)
	signed, _ := s.Sign(t, "signed", nar)
	built, _ := s.Sign(t, "built", nar)
	built.Ultimate = true
	derivation, _ := s.Sign(t, "x.drv", nar)
	own := new(store.Mem)
	own.Add(built, nar)
	for _, c := range []struct {
		name   string
		info   store.Info
		first  store.Source // asked before the source that has a copy
		shared bool
		err    error
	}{
		{"signed", signed, new(store.Mem), true, nil},
		{"built here", built, new(store.Mem), false, store.ErrNotFound},
		{"built here, and damaged", built, damaged{own}, false, store.ErrNotFound},
		{"a derivation", derivation, new(store.Mem), false, store.ErrNotFound},
		{"not known, for the database cannot be asked", signed, failing{}, false, errFailing},
	} {
		if mem, ok := c.first.(*store.Mem); ok {
			mem.Add(c.info, nar)
		}
		copied := c.info
		copied.Ultimate = false
		others := new(store.Mem)
		others.Add(copied, nar)
		sh := newSharer([]store.Source{c.first, others}, nil, trust.Policy{Keys: s.Keys})
		text, err := sh.sharedClaim(t.Context(), c.info.Path.HashPart())
		if (text.text != "") != c.shared || !errors.Is(err, c.err) {
			t.Errorf("%s: sharedClaim = %q, %v, want a claim: %t, error %v", c.name, text.text, err, c.shared, c.err)
		}
		n, _, err := sh.readBlock(t.Context(), blockRequest(c.info, 0), make([]byte, store.BlockSize))
		if (n > 0) != c.shared || !errors.Is(err, c.err) {
			t.Errorf("%s: readBlock = %d, %v, want a block: %t, error %v", c.name, n, err, c.shared, c.err)
		}
		m, err := s.Keys.Check(copied)
		if err != nil {
			t.Fatal(err)
		}
		sh.arriving = new(arrivals)
		if _, ok := sh.May(m); ok != (c.name != "a derivation") {
			t.Errorf("%s: may = %t while it is received", c.name, ok)
		}
	}
}

// In a circle, what was built here is shared if a key of the circle has signed it, and as long as that key is trusted.
func TestOwnBuildsAreSharedInACircle(t *testing.T) {
	upstream, circle := trusttest.NewSigner(t), trusttest.NewSignerNamed(t, "circle-1")
	all := new(trust.Keys)
	if err := all.Replace([]string{upstream.Secret.ToPublicKey().String(), circle.Secret.ToPublicKey().String()}); err != nil {
		t.Fatal(err)
	}
	nar := p2ptest.Random(2 * store.BlockSize)
	built := func(name string, signers ...trusttest.Signer) store.Info {
		info, _ := signers[0].Sign(t, name, nar)
		for _, s := range signers[1:] {
			more, _ := s.Sign(t, name, nar)
			info.Signatures = append(info.Signatures, more.Signatures...)
		}
		info.Ultimate = true
		return info
	}
	for name, c := range map[string]struct {
		info   store.Info
		damage bool
		shared bool
	}{
		"signed by the circle":           {info: built("circle", circle), shared: true},
		"by the circle and an upstream":  {info: built("both", upstream, circle), shared: true},
		"by an upstream":                 {info: built("upstream", upstream)},
		"by the circle, and damaged":     {info: built("circle-damaged", circle), damage: true},
		"a derivation, signed by circle": {info: built("circle.drv", circle)},
	} {
		t.Run(name, func(t *testing.T) {
			keys := new(trust.Keys)
			if err := keys.Replace([]string{circle.Secret.ToPublicKey().String()}); err != nil {
				t.Fatal(err)
			}
			own, copies := new(store.Mem), new(store.Mem)
			own.Add(c.info, nar)
			copied := c.info
			copied.Ultimate = false
			copies.Add(copied, nar)
			sources := []store.Source{own, copies}
			if c.damage {
				sources[0] = damaged{own}
			}
			sh := newSharer(sources, nil, trust.Policy{Keys: all, Circle: keys})
			text, err := sh.sharedClaim(t.Context(), c.info.Path.HashPart())
			if (text.text != "") != c.shared || err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("sharedClaim = %q, %v, want a claim: %t", text.text, err, c.shared)
			}
			buf := make([]byte, store.BlockSize)
			if n, _, err := sh.readBlock(t.Context(), blockRequest(c.info, 0), buf); (n > 0) != c.shared {
				t.Errorf("readBlock = %d, %v, want a block: %t", n, err, c.shared)
			}
			if err := keys.Replace(nil); err != nil {
				t.Fatal(err)
			}
			if _, _, err := sh.readBlock(t.Context(), blockRequest(c.info, 1), buf); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("readBlock = %v once the circle's key is removed, want ErrNotFound", err)
			}
		})
	}
}

// Removing a key from the sharing policy ends the NARs that are open because of it, with the next block.
func TestRemovedKeyEndsOpenNARs(t *testing.T) {
	s := trusttest.NewSigner(t)
	key := s.Secret.ToPublicKey().String()
	nar := p2ptest.Random(3 * store.BlockSize)
	info, _ := s.Sign(t, "x", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	srv := newTestServer(t, s.Keys, mem)
	sh, buf := srv.sharer, make([]byte, store.BlockSize)
	manifest := blockRequest(info, 0)
	manifest.Kind = wire.AskManifest
	read := func(i int) error {
		_, _, err := sh.readBlock(t.Context(), blockRequest(info, i), buf)
		return err
	}
	if err := read(0); err != nil {
		t.Fatalf("readBlock = %v, want a block", err)
	}
	if err := s.Keys.Replace([]string{key, trusttest.NewSigner(t).Secret.ToPublicKey().String()}); err != nil {
		t.Fatal(err)
	}
	if err := read(1); err != nil {
		t.Errorf("readBlock = %v after keys that still hold the signer's, want a block", err)
	}
	blocks := 0
	err := sh.manifest(t.Context(), manifest, func(int) error { return nil }, func([]byte) error {
		blocks++
		return s.Keys.Replace(nil)
	})
	if blocks != 1 || !errors.Is(err, store.ErrNotFound) {
		t.Errorf("manifest yields %d blocks and %v once the key is removed, want 1 and ErrNotFound", blocks, err)
	}
	if err := read(2); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("readBlock = %v once the key is removed, want ErrNotFound", err)
	}
	if _, err := sh.have(t.Context(), manifest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("have = %v once the key is removed, want ErrNotFound", err)
	}
	if err := s.Keys.Replace([]string{key}); err != nil {
		t.Fatal(err)
	}
	if err := read(2); err != nil || !bytes.Equal(buf, nar[2*store.BlockSize:]) {
		t.Errorf("readBlock = %v once the key is back, want the block", err)
	}

	other, _ := s.Sign(t, "y", nar)
	om, err := s.Keys.Check(other)
	if err != nil {
		t.Fatal(err)
	}
	srv.arriving.(*arrivals).m = om
	if srv.Partial(blockRequest(other, 0)) == nil {
		t.Error("a NAR that is being received is not passed on")
	}
	if err := s.Keys.Replace(nil); err != nil {
		t.Fatal(err)
	}
	if srv.Partial(blockRequest(other, 0)) != nil {
		t.Error("a NAR that is being received is passed on once the key is removed")
	}
}
