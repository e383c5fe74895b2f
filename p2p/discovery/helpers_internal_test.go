package discovery

import (
	"crypto/rand"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"narbor/p2p/netmon"
	"narbor/store/storetest"
)

func newTestIdentity(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leavesNothing returns a function that fails the test unless all goroutines end that have begun since.
func leavesNothing(t testing.TB) func() {
	before := goleak.IgnoreCurrent()
	return func() {
		t.Helper()
		limit := time.Now().Add(storetest.AtMost(10 * time.Second))
		for err := goleak.Find(before); err != nil; err = goleak.Find(before) {
			if time.Now().After(limit) {
				t.Error(err)
				return
			}
		}
	}
}

func newTestPeer(t *testing.T) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(newTestIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func testLink(name string, addrs ...string) netmon.Link {
	l := netmon.Link{InterfaceStatus: netmon.InterfaceStatus{Name: name, Used: true}}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}
