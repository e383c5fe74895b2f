package meet

import (
	"bufio"
	"bytes"
	"errors"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/wire"
)

func FuzzReadPeers(f *testing.F) {
	id, err := peer.IDFromPrivateKey(newTestIdentity(f))
	if err != nil {
		f.Fatal(err)
	}
	one := ma.StringCast("/ip4/10.0.0.1/tcp/6273/p2p/" + id.String())
	f.Add([]byte{0})
	f.Add(appendPeers(nil, []ma.Multiaddr{one, ma.StringCast("/ip6/fd00::1/tcp/1/p2p/" + id.String())}))
	f.Add([]byte{1, 4, 255, 255, 255, 255})
	f.Add([]byte{17})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		addrs, err := readPeers(bufio.NewReaderSize(r, 16))
		if err != nil {
			return
		}
		again := appendPeers(nil, addrs)
		if len(addrs) > maxToldPeers || !bytes.HasPrefix(b, again) {
			t.Errorf("readPeers(%x) = %v, which is written as %x", b, addrs, again)
		}
	})
}

func TestWhatIsToldIsBounded(t *testing.T) {
	for _, b := range [][]byte{{maxToldPeers + 1}, {1, maxPeerAddr + 1, 1}, {1, 0}, {1, 2, 255, 255}} {
		if _, err := readPeers(bufio.NewReader(bytes.NewReader(b))); !errors.Is(err, wire.ErrWire) {
			t.Errorf("readPeers(%x) = %v, want errWire", b, err)
		}
	}
}
