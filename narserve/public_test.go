package narserve_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"narbor/narserve"
	"narbor/trust"
)

// A path that only private keys have signed is for this machine's own programs, and for no guest or other machine.
func TestGuestsGetWhatPublicKeysHaveSigned(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "x", 100)
	loopback, lan := net.IPv4(127, 0, 0, 1), net.IPv4(192, 168, 1, 7)
	for name, public := range map[string]*trust.Keys{"public": w.keys, "private": {}} {
		s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys, Public: public, Hosts: []string{"nas"}})
		for _, c := range []struct {
			host  string
			local net.IP
			own   bool
		}{
			{"127.0.0.1:6272", loopback, true}, {"localhost:6272", loopback, true}, {"[::1]:6272", net.IPv6loopback, true},
			{"nas:6272", loopback, false}, {"10.0.2.2:6272", loopback, false}, {"192.168.1.7:6272", lan, false},
			{"127.0.0.1:6272", lan, false},
		} {
			want := http.StatusNotFound
			if c.own || name == "public" {
				want = http.StatusOK
			}
			hp := string(info.Path.HashPart())
			for _, path := range []string{"/" + hp + ".narinfo", "/nar/" + hp + "-" + info.NarHash.Base32() + ".nar"} {
				r := httptest.NewRequest("GET", path, nil)
				r.Host = c.host
				got := httptest.NewRecorder()
				s.ServeHTTP(got, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey,
					&net.TCPAddr{IP: c.local, Port: 6272})))
				if got.Code != want {
					t.Errorf("%s: GET %s with Host %s at %s: status %d, want %d", name, path, c.host, c.local, got.Code, want)
				}
			}
		}
	}
}
