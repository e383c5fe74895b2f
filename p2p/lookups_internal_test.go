package p2p

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/p2p/wire"
	"narbor/store"
)

// The NAR may take 241 s, and is refused from 482 s on.
func TestNARThatTakesTooLongIsNotFound(t *testing.T) {
	s := newSigner(t)
	_, m := s.sign(t, "wanted", randomNAR(1<<20))
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
				book := peers.NewLedger("", zap.NewNop())
				ls := newLookups(peers.NewSet(), book, secrets.New(secrets.Config{Trusted: s.keys}), zap.NewNop())
				f := &finding{mapping: m}
				for i, rate := range c.rates {
					nb := peers.NewNeighbour(connectedHost{}, []peer.ID{"a", "b"}[i], wire.ProtocolID, book)
					if rate > 0 {
						nb.Rated(rate, time.Now())
					}
					ls.neighbours.Add(nb)
					f.add(nb.ID, false)
				}
				time.Sleep(c.ago)
				if err := ls.tooSlow(f); errors.Is(err, store.ErrSlow) != c.slow || err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("tooSlow = %v, want ErrSlow: %t", err, c.slow)
				}
			})
		})
	}
}
