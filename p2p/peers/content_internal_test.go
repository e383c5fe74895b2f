package peers

import (
	"context"
	"crypto/sha256"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A signer signs as an upstream does. Its keys trust it.
type signer struct {
	secret signature.SecretKey
	keys   *trust.Keys
}

func newSigner(t testing.TB) signer {
	t.Helper()
	secret, keys := trusttest.NewKey(t, "upstream-1")
	return signer{secret, keys}
}

// sign returns the mapping of a path with a NAR of that size, which does not exist.
func (s signer) sign(t testing.TB, name string, size int64) trust.Mapping {
	t.Helper()
	info := store.Info{Path: trusttest.PathNamed(t, name), NarHash: sha256.Sum256([]byte(name)), NarSize: size}
	return trusttest.Check(t, s.keys, trusttest.Sign(t, s.secret, info))
}

// A streamHost has one stream to all peers.
type streamHost struct {
	host.Host
	stream network.Stream
}

func (h streamHost) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return h.stream, nil
}

// newTestNeighbour returns a neighbour that has one stream.
func newTestNeighbour(s network.Stream) *Neighbour {
	return NewNeighbour(streamHost{stream: s}, "peer", wire.ProtocolID, NewLedger("", zap.NewNop()))
}
