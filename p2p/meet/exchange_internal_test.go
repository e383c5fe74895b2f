package meet

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

func FuzzReadPeers(f *testing.F) {
	id, err := peer.IDFromPrivateKey(p2ptest.NewIdentity(f))
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

// A name is at most as long as a label of DNS. The reader stops before the rest of a longer one.
func TestToldNamesAreBounded(t *testing.T) {
	long := strings.Repeat("n", peers.MaxName)
	for _, name := range []string{"", "laptop", long, "\x1b[2J\x00", "<script>"} {
		got, err := readName(bufio.NewReader(bytes.NewReader(append(appendName(nil, name), "rest"...))))
		if err != nil || got != name {
			t.Errorf("readName of %q = %q, %v", name, got, err)
		}
	}
	for _, name := range []string{long + "n", strings.Repeat("n", 1<<20)} {
		if got, err := readName(bufio.NewReader(strings.NewReader(string(appendName(nil, name))))); !errors.Is(err, wire.ErrWire) {
			t.Errorf("readName of %d bytes = %d bytes, %v, want errWire", len(name), len(got), err)
		}
	}
	for _, cut := range []string{"\x05half", "\x05"} {
		if _, err := readName(bufio.NewReader(strings.NewReader(cut))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("readName of %q = %v, want an unexpected end", cut, err)
		}
	}
}
