package p2p

import (
	"crypto/rand"
	"testing"
	"time"

	"narbor/store/storetest"

	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/goleak"
)

var (
	atMost     = storetest.AtMost
	eventually = storetest.Eventually
	// FileNAR is for the tests outside of the package, too.
	FileNAR = storetest.FileNAR
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
		limit := time.Now().Add(atMost(10 * time.Second))
		for err := goleak.Find(before); err != nil; err = goleak.Find(before) {
			if time.Now().After(limit) {
				t.Error(err)
				return
			}
		}
	}
}
