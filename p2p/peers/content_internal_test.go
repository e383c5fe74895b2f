package peers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// A signer signs as an upstream does. Its keys trust it.
type signer struct {
	secret signature.SecretKey
	keys   *trust.Keys
}

func newSigner(t testing.TB) signer {
	t.Helper()
	secret, public, err := signature.GenerateKeypair("upstream-1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.ParseKeys([]string{public.String()})
	if err != nil {
		t.Fatal(err)
	}
	return signer{secret, keys}
}

// sign returns the mapping of a path with a NAR of that size, which does not exist.
func (s signer) sign(t testing.TB, name string, size int64) trust.Mapping {
	t.Helper()
	part := sha256.Sum256([]byte(name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	info := store.Info{Path: path, NarHash: part, NarSize: size}
	sig, err := s.secret.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;", info.Path, info.NarHash, info.NarSize))
	if err != nil {
		t.Fatal(err)
	}
	info.Signatures = []string{sig.String()}
	m, err := s.keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	return m
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
