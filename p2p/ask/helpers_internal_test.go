package ask

import (
	"crypto/sha256"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

const (
	partA = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
	partB = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
)

// A signer signs as an upstream does. Its keys trust it.
type signer struct {
	secret signature.SecretKey
	Keys   *trust.Keys
}

func newSigner(t testing.TB) signer {
	t.Helper()
	secret, keys := trusttest.NewKey(t, "upstream-1")
	return signer{secret, keys}
}

// Sign returns a claim about a path with a NAR of that size, which does not exist, and its mapping.
func (s signer) Sign(t testing.TB, name string, size int64) (store.Info, trust.Mapping) {
	t.Helper()
	info := store.Info{Path: trusttest.PathNamed(t, name), NarHash: sha256.Sum256([]byte(name)), NarSize: size}
	info = trusttest.Sign(t, s.secret, info)
	return info, trusttest.Check(t, s.Keys, info)
}

// NewLookups, NewNeighbour and NewSigner are for the tests outside of the package.
var (
	NewLookups   = newTestLookups
	NewNeighbour = newTestNeighbour
	NewSigner    = newSigner
)

// newTestLookups returns lookups of a machine without sources.
func newTestLookups(trusted *trust.Keys) *Lookups {
	return New(Config{Neighbours: peers.NewSet(), Ledger: peers.NewLedger("", zap.NewNop()),
		Secrets: secrets.New(secrets.Config{Trusted: trusted}), Log: zap.NewNop()})
}

func newTestNeighbour(ls *Lookups, id peer.ID) *peers.Neighbour {
	return peers.NewNeighbour(connectedHost{}, id, wire.ProtocolID, ls.Ledger)
}

// A connectedHost has one connection with each peer.
type connectedHost struct{ host.Host }

func (connectedHost) Network() network.Network { return oneConn{} }

type oneConn struct{ network.Network }

func (oneConn) ConnsToPeer(peer.ID) []network.Conn { return []network.Conn{nil} }
