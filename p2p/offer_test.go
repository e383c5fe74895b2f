package p2p_test

import (
	"strings"
	"testing"

	"narbor/p2p"
	"narbor/store"
	"narbor/store/offered"
	"narbor/store/spool"
)

// image starts a machine that has a path without its signature, as from an image, and takes offers.
func (u signer) image(t *testing.T, info store.Info, nar []byte, to ...*machine) *machine {
	t.Helper()
	book, err := offered.Open("")
	if err != nil {
		t.Fatal(err)
	}
	info.Signatures = nil
	return u.newMachineAs(t, spool.Config{}, book.Source(memWith([]store.Info{info}, [][]byte{nar})),
		func(cfg *p2p.Config) { cfg.Sharing.Keep = book.Keep }, to...)
}

// A machine with a path without a signature is a holder once another has a signed claim of an upstream: for that
// machine, which downloads no archive, and for a third that asks no upstream.
func TestUnsignedPathIsSharedAfterAnOffer(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 3*store.BlockSize+1234)
	info := web.add(t, "image", nar)
	holder := up.image(t, info, nar)
	m := up.newMachineAs(t, spool.Config{}, new(store.Mem), web.with(t), holder)
	if got, err := m.Lookup(t.Context(), info.Path.HashPart()); err == nil {
		t.Fatalf("Lookup of an unsigned path = %v", got)
	}
	got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	m.fetchMapped(t, got, nar)
	if _, nars := web.requests(); nars != 0 {
		t.Errorf("%d archives from the upstream, want none", nars)
	}
	third := up.newMachine(t, nil, holder)
	third.fetch(t, info, nar)
}

// While no upstream answers, a claim that one has made before still makes a holder of a machine without the signature.
func TestKeptClaimIsOfferedWhileTheUpstreamIsDown(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 1000)
	info, absent := web.add(t, "image", nar), web.add(t, "absent", nar)
	m := up.newMachineAs(t, spool.Config{}, new(store.Mem), web.with(t))
	for _, i := range []store.Info{info, absent} {
		if _, err := m.LookupUpstream(t.Context(), i.Path.HashPart()); err != nil {
			t.Fatal(err)
		}
	}
	web.Close()
	other := up.sign(t, "other", nar)
	p2p.Eventually(t, "without an upstream", func() bool {
		_, err := m.LookupUpstream(t.Context(), other.Path.HashPart())
		return err != nil && strings.Contains(err.Error(), "did not answer a moment ago")
	})
	holder := up.image(t, info, nar, m)
	p2p.Eventually(t, "a neighbour", func() bool { return len(m.Status().Neighbours) == 1 && len(holder.Status().Neighbours) == 1 })
	got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatalf("LookupUpstream of a kept claim = %v", err)
	}
	m.fetchMapped(t, got, nar)
	if got, err := m.LookupUpstream(t.Context(), absent.Path.HashPart()); err == nil {
		t.Errorf("LookupUpstream of a path that no neighbour has = %v, want an error: its NAR cannot be had", got)
	}
}

// Nothing is offered by a machine that shares nothing, of what was built there, or to a neighbour that has the path
// with another content.
func TestClaimsThatAreNotOffered(t *testing.T) {
	up := newUpstream(t)
	nar := noise(1, 1000)
	for name, c := range map[string]struct {
		asker func(info store.Info) store.Source
		edit  func(*p2p.Config)
		other bool // the holder has another content
	}{
		"sharing is off":             {edit: func(cfg *p2p.Config) { cfg.Sharing.Off = true }},
		"no source, as narbor fetch": {asker: func(store.Info) store.Source { return nil }},
		"built here, too": {asker: func(info store.Info) store.Source {
			info.Ultimate = true
			return memWith([]store.Info{info}, [][]byte{nar})
		}},
		"no public key has signed it": {edit: func(cfg *p2p.Config) { cfg.Sharing.Keys = newUpstream(t).keys }},
		"another content there":       {other: true},
	} {
		t.Run(name, func(t *testing.T) {
			web := newWebCache(t, up)
			info := web.add(t, "path", nar)
			here, hereNAR := info, nar
			if c.other {
				hereNAR = noise(2, 1000)
				here = up.sign(t, "path", hereNAR)
			}
			holder := up.image(t, here, hereNAR)
			var src store.Source = new(store.Mem)
			if c.asker != nil {
				src = c.asker(info)
			}
			m := up.newMachineAs(t, spool.Config{}, src, func(cfg *p2p.Config) {
				web.with(t)(cfg)
				if c.edit != nil {
					c.edit(cfg)
				}
			}, holder)
			got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
			if err != nil {
				t.Fatal(err)
			}
			m.fetchMapped(t, got, nar)
			if _, nars := web.requests(); nars != 1 {
				t.Errorf("%d archives from the upstream, want 1", nars)
			}
			third := up.newMachine(t, nil, holder)
			if got, err := third.Lookup(t.Context(), info.Path.HashPart()); err == nil {
				t.Errorf("the other machine shares %s now", got.Path())
			}
		})
	}
}
