package mdns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

// FuzzAnnouncement takes what a machine on the link announces: TXT strings, one a line, and for how many seconds to
// believe it.
func FuzzAnnouncement(f *testing.F) {
	s := newTestService(f, "10.1.0.5/24", "169.254.9.9/16", "fd01::5/64", "fe80::5/64")
	from := netip.MustParseAddr("fe80::9%eth0")
	f.Add("dnsaddr=/ip6/fe80::9/tcp/6273/p2p/12D3KooWHSGyHvHJCc2mDWx9rUGthyFp28RztaviWnzW9uKRrNrY", int64(60))
	f.Add("dnsaddr=/ip4/10.1.0.6/tcp/6273/p2p/"+s.cfg.Self.String(), int64(60))
	f.Fuzz(func(t *testing.T, texts string, seconds int64) {
		e := &zeroconf.ServiceEntry{Text: strings.Split(texts, "\n"), Expiry: time.Now().Add(time.Duration(seconds) * time.Second)}
		a, ok := s.parse(e, from)
		if ok != (len(a.Addrs) > 0) || len(a.Addrs) > netmon.MaxAddrs || a.ID == s.cfg.Self || time.Until(a.Expiry) > ttl*time.Second {
			t.Errorf("parse(%q, %d s) = %+v, %v", texts, seconds, a, ok)
		}
		for _, m := range a.Addrs {
			if a, _ := netmon.IPOf(m); a == from {
				m = m[1:] // zones are not on the wire
			} else if !mayBeAnnounced(m) {
				t.Errorf("parse(%q) would dial %s", texts, m)
			}
			if id, again, ok := parseText(textPrefix + m.String() + "/p2p/" + a.ID.String()); !ok || id != a.ID || !again.Equal(m) {
				t.Errorf("%s of %s comes back as %s of %s, %v", m, a.ID, again, id, ok)
			}
		}
	})
}

// mayBeAnnounced reports whether an address is another machine's on the links of [FuzzAnnouncement].
func mayBeAnnounced(m ma.Multiaddr) bool {
	text, err := m.ValueForProtocol(m[0].Code())
	a, parseErr := netip.ParseAddr(text)
	if err != nil || parseErr != nil || len(m) != 2 || m[1].Code() != ma.P_TCP {
		return false
	}
	switch a = a.Unmap(); a.String() {
	case "10.1.0.5", "169.254.9.9", "169.254.169.254", "fd01::5":
		return false
	}
	for _, net := range []string{"10.1.0.0/24", "169.254.0.0/16", "fd01::/64"} {
		if netip.MustParsePrefix(net).Contains(a) {
			return true
		}
	}
	return false
}
