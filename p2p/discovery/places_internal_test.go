package discovery

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

func TestNetworksAreToldApart(t *testing.T) {
	gw := func(addr, mac string) netmon.Gateway {
		return netmon.Gateway{Index: 1, Addr: netip.MustParseAddr(addr), MAC: mac}
	}
	const a, b = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
	for name, c := range map[string]struct {
		prefix   string
		gateways []netmon.Gateway
		patient  bool
		want     string
		sure     bool
	}{
		"gateway":                   {"192.168.1.0/24", []netmon.Gateway{gw("192.168.1.1", a)}, false, a + " 192.168.1.0/24", true},
		"another gateway":           {"192.168.1.0/24", []netmon.Gateway{gw("192.168.1.1", b)}, false, b + " 192.168.1.0/24", true},
		"not resolved yet":          {"192.168.1.0/24", []netmon.Gateway{gw("192.168.1.1", "")}, false, "", false},
		"not to be resolved":        {"192.168.1.0/24", []netmon.Gateway{gw("192.168.1.1", "")}, true, "", true},
		"of its own family":         {"fd00::/64", []netmon.Gateway{gw("192.168.1.1", a), gw("fe80::1", b)}, false, b + " fd00::/64", true},
		"of the other family":       {"fd00::/64", []netmon.Gateway{gw("192.168.1.1", a)}, false, a + " fd00::/64", true},
		"own family not resolved":   {"fd00::/64", []netmon.Gateway{gw("192.168.1.1", a), gw("fe80::1", "")}, false, "", false},
		"two":                       {"10.0.0.0/8", []netmon.Gateway{gw("10.0.0.2", b), gw("10.0.0.1", a)}, false, a + " 10.0.0.0/8", true},
		"none yet":                  {"192.168.1.0/24", nil, false, "", false},
		"none":                      {"192.168.1.0/24", nil, true, "- 192.168.1.0/24", true},
		"link-local":                {"169.254.0.0/16", nil, true, "", true},
		"link-local 6":              {"fe80::/64", nil, true, "", true},
		"link-local with a gateway": {"fe80::/64", []netmon.Gateway{gw("fe80::1", a)}, true, a + " fe80::/64", true},
	} {
		got, sure := networkKey(netip.MustParsePrefix(c.prefix), c.gateways, c.patient)
		if got != c.want || sure != c.sure {
			t.Errorf("%s: networkKey = %q, %v, want %q, %v", name, got, sure, c.want, c.sure)
		}
	}
}

func TestGatewayIsDialledOnceAndOnlyIfPrivate(t *testing.T) {
	l := newIdleLAN(t)
	l.Gate.SetLinks([]netmon.Link{p2ptest.Link("eth0", "10.1.0.5/24", "203.0.113.5/24", "100.64.0.5/10", "fd01::5/64", "2001:db8::5/64",
		"169.254.0.5/16", "192.168.1.1/24", "fe80::5/64")})
	for addr, want := range map[string]bool{
		"10.1.0.1": true, "fd01::1": true, "169.254.0.1": true,
		"fe80::1%eth0": true, "fe80::1": false, "fe80::1%eth1": false,
		"203.0.113.1": false, "100.64.0.1": false, "2001:db8::1": false, // a provider's
		"10.2.0.1": false, "fd02::1": false, // on none of our links
		"192.168.1.1": false, "169.254.169.254": false, // this machine, and where clouds keep secrets
	} {
		p := newPlaces(l.Dialer, l.Links, &memory{})
		p.begin(time.Now())
		g := netmon.Gateway{Addr: netip.MustParseAddr(addr)}
		if got := p.noteProbe(g); got != want {
			t.Errorf("noteProbe(%s) = %v, want %v", addr, got, want)
		}
		g.MAC = "02:00:00:00:00:0a" // known by the dial
		for range 2 {
			if p.noteProbe(g) {
				t.Errorf("%s is dialled twice", addr)
			}
		}
		g.MAC = "02:00:00:00:00:0b"
		if got := p.noteProbe(g); got != want {
			t.Errorf("noteProbe(another one at %s) = %v, want %v", addr, got, want)
		}
		p.begin(time.Now())
		if got := p.noteProbe(g); got != want {
			t.Errorf("noteProbe(%s) = %v after a change of the links, want %v", addr, got, want)
		}
	}
}

func memoOf(t *testing.T, i int) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("/ip4/10.0.%d.%d/tcp/6273/p2p/%s", i/250, i%250+1, p2ptest.NewPeer(t)))
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Now()
	m := &memory{}
	for i := range maxNetworks + 5 {
		for j := range maxRemembered + 5 {
			m.note(fmt.Sprint("network ", i), memoOf(t, j), now.Add(time.Duration(i*100+j)*time.Second))
		}
	}
	if len(m.all) != maxNetworks*maxRemembered || len(m.in("network 0")) > 0 ||
		len(m.in(fmt.Sprint("network ", maxNetworks+4))) != maxRemembered {
		t.Errorf("%d addresses are remembered, %d of them in the first network, want %d, none", len(m.all), len(m.in("network 0")),
			maxNetworks*maxRemembered)
	}
	id := p2ptest.NewPeer(t).String()
	later := now.Add(memoryLimit)
	for i := range 3 * maxRememberedAddrs {
		m.note("home", ma.StringCast(fmt.Sprintf("/ip4/10.0.0.%d/tcp/6273/p2p/%s", i+1, id)), later.Add(time.Duration(i)*time.Minute))
	}
	if got := m.in("home"); len(got) != maxRememberedAddrs ||
		!strings.Contains(got[0].String(), fmt.Sprintf("10.0.0.%d/", 3*maxRememberedAddrs)) {
		t.Errorf("of one peer are remembered %v, want the newest %d", got, maxRememberedAddrs)
	}
	m.note("home", memoOf(t, 1), later.Add(2*memoryLimit))
	if len(m.all) != 1 {
		t.Errorf("%d addresses are remembered after two months, want the new one", len(m.all))
	}
}

// Where there are more neighbours than are remembered, they do not displace each other each time they are noted.
func TestFullMemoryIsAtRest(t *testing.T) {
	now := time.Now()
	m := &memory{}
	var all []ma.Multiaddr
	for j := range 2 * maxRemembered {
		all = append(all, memoOf(t, j))
		if got, want := m.note("home", all[j], now), j < maxRemembered; got != want {
			t.Fatalf("note the %dth neighbour = %v, want %v", j+1, got, want)
		}
	}
	for j, x := range all {
		if m.note("home", x, now.Add(memoRest-time.Second)) {
			t.Errorf("note the %dth neighbour again = true", j+1)
		}
	}
	if !m.note("away", all[0], now) || !m.note("home", all[maxRemembered], now.Add(memoRest)) {
		t.Error("want a place in another network, and an hour later in this one")
	}
}

func TestMemoryOutlastsARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "networks.json")
	now := time.Now().Round(0)
	m, err := loadMemory(file, now)
	if err != nil {
		t.Fatal(err)
	}
	if !m.note("home", memoOf(t, 1), now) || m.note("home", m.in("home")[0], now.Add(time.Hour)) ||
		!m.note("home", m.in("home")[0], now.Add(memoAge)) {
		t.Error("want a memo to be written when it is new, and when it is a day old")
	}
	if err := m.save(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", st.Mode(), err)
	}
	again, err := loadMemory(file, now.Add(2*memoAge))
	if err != nil || !reflect.DeepEqual(again.in("home"), m.in("home")) {
		t.Errorf("loadMemory = %v, %v, want %v", again.all, err, m.all)
	}
	if again, err = loadMemory(file, now.Add(-time.Hour)); err != nil || again.all[0].Seen.After(now) {
		t.Errorf("loadMemory = %v, %v, want no time in the future", again.all, err)
	}
	if again, err = loadMemory(file, now.Add(2*memoryLimit)); err != nil || len(again.all) != 0 {
		t.Errorf("loadMemory = %v, %v, want what is too old to be forgotten", again.all, err)
	}
}

func TestDamagedMemoryIsNotBelieved(t *testing.T) {
	good := fmt.Sprintf(`{"network":"x","peer":"%s","seen":"2026-01-01T00:00:00Z"}`, memoOf(t, 1))
	for name, text := range map[string]string{
		"cut":        `[` + good,
		"more":       `[` + good + `] []`,
		"no address": `[` + good + `,{"network":"x","peer":"nas","seen":"2026-01-01T00:00:00Z"}]`,
		"a low port": `[` + strings.Replace(good, "6273", "22", 1) + `]`,
		"no network": `[` + strings.Replace(good, `"x"`, `""`, 1) + `]`,
		"no time":    `[` + strings.Replace(good, "2026", "when", 1) + `]`,
		"too long":   `[` + strings.Repeat(good+",", 20_000) + good + `]`,
	} {
		file := filepath.Join(t.TempDir(), "networks.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := loadMemory(file, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
		if err == nil || len(m.all) != 0 {
			t.Errorf("%s: loadMemory = %d, %v, want nothing and an error", name, len(m.all), err)
		}
		m.note("x", memoOf(t, 2), time.Now())
		if err := m.save(); err != nil {
			t.Errorf("%s: it cannot be started anew: %v", name, err)
		}
	}
}

func FuzzMemory(f *testing.F) {
	f.Add([]byte(`[{"network":"x","peer":"/ip4/10.0.0.1/tcp/6273/p2p/12D3KooWAtrwQ2T6jG4Uo8VFrPtXZEqwVRzpQJzQPQz6YtUuFo67",` +
		`"seen":"2026-01-01T00:00:00Z"}]`))
	file := filepath.Join(f.TempDir(), "networks.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
		m, err := loadMemory(file, now)
		if err != nil && len(m.all) > 0 || len(m.all) > maxNetworks*maxRemembered {
			t.Errorf("loadMemory = %d, %v", len(m.all), err)
		}
		if err := m.save(); err != nil {
			t.Fatal(err)
		}
		again, err := loadMemory(file, now)
		if err != nil || !slices.EqualFunc(again.all, m.all,
			func(a, b memo) bool { return a.Network == b.Network && a.Peer == b.Peer && a.Seen.Equal(b.Seen) }) {
			t.Errorf("what is saved is read as %v, %v, want %v", again.all, err, m.all)
		}
	})
}
