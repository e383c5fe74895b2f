// Package p2ptest makes identities, links and addresses, and runs parts, for the tests of p2p's rooms. Only tests import it.
package p2ptest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"narbor/p2p/netmon"
	"narbor/store"
	"narbor/store/storetest"
)

// Two hash parts that no path has.
const (
	PartA = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
	PartB = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
)

// AllInterfaces are denied to nodes with peers on their own machine alone. Such a node dials no gateway of the machine's
// networks, and does not wait half a second for one that does not answer.
var AllInterfaces = []string{"*"}

// Must returns v, and panics if there is an error.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// NewIdentity makes the key of a peer.
func NewIdentity(tb testing.TB) crypto.PrivKey {
	tb.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	storetest.Must(tb, err)
	return key
}

// NewPeer returns the ID of a peer that does not exist.
func NewPeer(tb testing.TB) peer.ID {
	tb.Helper()
	id, err := peer.IDFromPrivateKey(NewIdentity(tb))
	storetest.Must(tb, err)
	return id
}

// Link is an interface that is used, with these addresses.
func Link(name string, addrs ...string) netmon.Link {
	l := netmon.Link{InterfaceStatus: netmon.InterfaceStatus{Name: name, Used: true}}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
	}
	return l
}

// Addr returns a different address for each i.
func Addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

// HashParts returns count hash parts of a dictionary, from a number on.
func HashParts(from, count int) (parts []store.HashPart) {
	for i := from; i < from+count; i++ {
		parts = append(parts, store.HashPartFromBytes([20]byte(binary.BigEndian.AppendUint64(make([]byte, 12), uint64(i)))))
	}
	return parts
}

// Random returns size bytes that do not compress, the same each time.
func Random(size int) []byte {
	b := make([]byte, size)
	mathrand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// LeavesNothing returns a function that fails the test unless all goroutines end that have begun since.
func LeavesNothing(tb testing.TB) func() {
	before := goleak.IgnoreCurrent()
	return func() {
		tb.Helper()
		limit := time.Now().Add(storetest.AtMost(10 * time.Second))
		for err := goleak.Find(before); err != nil; err = goleak.Find(before) {
			if time.Now().After(limit) {
				tb.Error(err)
				return
			}
		}
	}
}

// NeedNamespaces skips a test that makes network namespaces where that is not possible; under CI=true it must be.
func NeedNamespaces(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		storetest.Needs(tb, "network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		storetest.Needs(tb, "network namespaces need iproute2")
	}
}

// Run runs a part until stop is called, or the test ends, and fails the test if it ends late or with an error.
func Run(tb testing.TB, run func(context.Context) error) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("Run = %v, want nil", err)
			}
		case <-time.After(storetest.AtMost(10 * time.Second)):
			tb.Error("Run has not returned 10 s after its context ended")
		}
	})
	tb.Cleanup(stop)
	return stop
}
