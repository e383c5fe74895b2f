package ask

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust/trusttest"
)

// The NAR may take 241 s, and is refused from 482 s on.
func TestNARThatTakesTooLongIsNotFound(t *testing.T) {
	s := trusttest.NewSigner(t)
	_, m := s.SignSize(t, "wanted", 1<<20)
	for name, c := range map[string]struct {
		rates []int64 // of its holders, in bytes a second; 0 was never measured
		ago   time.Duration
		slow  bool
	}{
		"at an unknown rate":                     {[]int64{0}, 0, false},
		"in 419 s":                               {[]int64{2500}, 0, false},
		"in 524 s":                               {[]int64{2000}, 0, true},
		"in 524 s a minute ago":                  {[]int64{2000}, time.Minute + time.Second, false},
		"in 524 s from one, with another":        {[]int64{2000, 500}, 0, false},
		"in 524 s from one, the other not known": {[]int64{2000, 0}, 0, false},
		"in 583 s from two":                      {[]int64{900, 900}, 0, true},
		"from no neighbour that is left":         {nil, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ls := newTestLookups(s.Keys)
				f := &Finding{Mapping: m}
				for i, rate := range c.rates {
					nb := newTestNeighbour(ls, []peer.ID{"a", "b"}[i])
					if rate > 0 {
						nb.Rated(rate, time.Now())
					}
					ls.Neighbours.Add(nb)
					f.add(nb.ID, false)
				}
				time.Sleep(c.ago)
				if err := ls.TooSlow(f); errors.Is(err, store.ErrSlow) != c.slow || err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("TooSlow = %v, want ErrSlow: %t", err, c.slow)
				}
			})
		})
	}
}

// wrongToSetAside is the number of paths of which a peer has sent a wrong NAR that sets it aside.
const wrongToSetAside = 3

func TestPeerWithWrongNARsIsNoHolder(t *testing.T) {
	s := trusttest.NewSigner(t)
	_, m := s.SignSize(t, "coming", 1000)
	ls := newTestLookups(s.Keys)
	honest, damaged := newTestNeighbour(ls, "honest"), newTestNeighbour(ls, "damaged")
	f := &Finding{Mapping: m}
	for _, nb := range []*peers.Neighbour{honest, damaged} {
		ls.Neighbours.Add(nb)
		f.add(nb.ID, false)
	}
	if got := ls.connected(f); len(got) != 2 {
		t.Fatalf("%d holders, want 2", len(got))
	}
	for i := range wrongToSetAside {
		_, m := s.SignSize(t, fmt.Sprint("wrong", i), 10)
		ls.Ledger.SentWrong(damaged.ID, m, store.ErrCorrupt)
	}
	if got := ls.connected(f); len(got) != 1 || got[0].Neighbour != honest {
		t.Errorf("holders are %v, want the honest one alone", got)
	}
}

func TestMemoryOfQuestionsIsBounded(t *testing.T) {
	ls := newTestLookups(trusttest.NewSigner(t).Keys)
	v := NewVisits(ls, nil)
	for name, m := range map[string]struct {
		limit int
		add   func(store.HashPart)
		size  func() int
	}{
		"holders of paths":      {maxFindings, func(hp store.HashPart) { ls.findings.Add(hp, nil) }, ls.findings.Len},
		"paths that Nix missed": {maxWanted, func(hp store.HashPart) { v.wanted.Add(hp, time.Time{}) }, v.wanted.Len},
		"answers about files": {maxFilesKnown, func(hp store.HashPart) {
			_, f := fileNamed(t, string(hp))
			ls.files.known.Add(f, knownFile{})
		}, ls.files.known.Len},
	} {
		for i := range m.limit + 10 {
			m.add(store.HashPartFromBytes([20]byte(binary.BigEndian.AppendUint64(make([]byte, 12), uint64(i)))))
		}
		if got := m.size(); got != m.limit {
			t.Errorf("%s: %d are remembered, want %d", name, got, m.limit)
		}
	}
}
