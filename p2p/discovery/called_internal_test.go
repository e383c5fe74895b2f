package discovery

import (
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/p2ptest"
)

func TestPeersAreFoundByTheNamesThatUsersGive(t *testing.T) {
	l := newIdleLAN(t)
	a, b, c := p2ptest.NewPeer(t), p2ptest.NewPeer(t), p2ptest.NewPeer(t)
	at := func(addr string, ids ...peer.ID) {
		for _, id := range ids {
			l.Host().Peerstore().AddAddr(id, ma.StringCast(addr), time.Hour)
		}
	}
	at("/ip4/192.0.2.1/tcp/1", a)
	at("/ip6/2001:db8::1/tcp/1", b, c)
	end := func(id peer.ID, n int) string { return id.String()[len(id.String())-n:] }
	for name, want := range map[string]peer.ID{a.String(): a, end(b, 4): b, "…" + end(b, 6): b, "..." + end(b, 6): b, "192.0.2.1": a,
		end(b, 3): "", "": "", "192.0.2.2": "", "2001:db8::1": "", "[2001:db8::1]": ""} {
		got, err := l.PeerCalled(name, []peer.ID{a, b, c, a})
		if got != want || (want == "") != errors.Is(err, ErrNoPeer) {
			t.Errorf("PeerCalled(%q) = %s, %v, want %s", name, got, err, want)
		}
	}
	if got, err := l.PeerCalled(a.String(), []peer.ID{b, c}); !errors.Is(err, ErrNoPeer) {
		t.Errorf("PeerCalled of a peer that is not among those asked about = %s, %v, want ErrNoPeer", got, err)
	}
}
