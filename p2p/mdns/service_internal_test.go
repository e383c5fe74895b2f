package mdns

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

const testPort = 6273

// newTestService makes the service of a machine with these addresses on eth0. Other addresses of their networks are
// neighbours', but for that of a cloud's metadata.
func newTestService(t testing.TB, addrs ...string) *Service {
	t.Helper()
	link := p2ptest.Link("eth0", addrs...)
	isNeighbour := func(a netip.Addr) bool {
		for _, p := range link.Addrs {
			if p.Addr() == a.WithZone("") {
				return false
			}
		}
		return netmon.OnLink([]netmon.Link{link}, a) && a != netip.MustParseAddr("169.254.169.254")
	}
	return New(Config{Self: p2ptest.NewPeer(t), Port: testPort, IsNeighbour: isNeighbour, NonNeighbours: func() bool { return false },
		Found: func(Announcement) {}, Traffic: new(Traffic), Log: zap.NewNop()})
}

func TestCacheOfAnnouncedTextsIsBounded(t *testing.T) {
	d := newTestService(t)
	for i := range maxParsed + 10 {
		d.cachedText(fmt.Sprint(textPrefix, i))
	}
	if got := d.parsed.Len(); got != maxParsed {
		t.Errorf("%d texts are kept, want %d", got, maxParsed)
	}
}

func TestLongTextOfAnnouncementIsNotKept(t *testing.T) {
	d := newTestService(t)
	hash, err := mh.Sum(make([]byte, netmon.MaxAddrText), mh.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	text := textPrefix + "/ip4/10.1.0.6/tcp/6273/p2p/" + peer.ID(hash).String()
	if _, _, ok := parseText(text); ok {
		t.Errorf("an address of %d bytes is used, want at most %d", len(text)-len(textPrefix), netmon.MaxAddrText)
	}
	if d.cachedText(text); d.parsed.Len() != 0 {
		t.Errorf("a text of %d bytes is kept", len(text))
	}
}
