package p2p_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"narbor/p2p"
	"narbor/store"
	"narbor/store/offered"
	"narbor/store/spool"
	"narbor/trust"
)

// image starts a machine that has a path without its signature, as from an image, and takes offers.
func (u signer) image(t *testing.T, info store.Info, nar []byte) *machine {
	t.Helper()
	return u.imageOf(t, []store.Info{info}, nar)
}

// imageOf is image with several paths that have the same NAR.
func (u signer) imageOf(t *testing.T, infos []store.Info, nar []byte, to ...*machine) *machine {
	t.Helper()
	book, err := offered.Open("")
	if err != nil {
		t.Fatal(err)
	}
	mem := new(store.Mem)
	for _, info := range infos {
		info.Signatures = nil
		mem.Add(info, nar)
	}
	return u.newMachineAs(t, spool.Config{}, book.Source(mem), func(cfg *p2p.Config) { cfg.Sharing.Keep = book.Keep }, to...)
}

// keeper starts a machine that has asked an upstream about paths, and closes the upstream.
func (u signer) keeper(t *testing.T, web *webCache, infos ...store.Info) *machine {
	t.Helper()
	m := u.newMachineAs(t, spool.Config{}, new(store.Mem), web.with(t))
	for _, info := range infos {
		if _, err := m.LookupUpstream(t.Context(), info.Path.HashPart()); err != nil {
			t.Fatal(err)
		}
	}
	web.Close()
	other := u.sign(t, "other", noise(1, 1000))
	p2p.Eventually(t, "without an upstream", func() bool {
		_, err := m.LookupUpstream(t.Context(), other.Path.HashPart())
		return err != nil && strings.Contains(err.Error(), "did not answer a moment ago")
	})
	return m
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
// An offer that is not answered in time is made again only after a minute, so the test has several paths.
func TestKeptClaimIsOfferedWhileTheUpstreamIsDown(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 1000)
	var infos []store.Info
	for i := range 8 {
		infos = append(infos, web.add(t, fmt.Sprint("image-", i), nar))
	}
	m := up.keeper(t, web, infos...)
	holder := up.imageOf(t, infos, nar, m)
	p2p.Eventually(t, "a neighbour", func() bool { return len(m.Status().Neighbours) == 1 && len(holder.Status().Neighbours) == 1 })
	var got trust.Mapping
	asked := 0
	p2p.Eventually(t, "a holder by a kept claim", func() (ok bool) {
		var err error
		got, err = m.LookupUpstream(t.Context(), infos[asked%len(infos)].Path.HashPart())
		asked++
		return err == nil
	})
	m.fetchMapped(t, got, nar)
}

// Without a holder a kept claim does not count while no upstream answers: its NAR cannot be had.
func TestKeptClaimWithoutAHolder(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	info := web.add(t, "kept", noise(1, 1000))
	m := up.keeper(t, web, info)
	if got, err := m.LookupUpstream(t.Context(), info.Path.HashPart()); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("LookupUpstream = %v, %v, want that the upstream does not answer", got, err)
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
