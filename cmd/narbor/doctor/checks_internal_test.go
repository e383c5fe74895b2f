package doctor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/zeroconf/v2"

	"narbor/cmd/narbor/control"
)

func TestFlawsOfNix(t *testing.T) {
	for _, c := range []struct {
		version, name string
		flaws         int
	}{
		{"nix (Nix) 2.8.0\n", "Nix 2.8.0", 1}, {"nix (Nix) 2.24.5", "Nix 2.24.5", 2}, {"nix (Nix) 2.24.9", "Nix 2.24.9", 1},
		{"nix (Nix) 2.28.6", "Nix 2.28.6", 1},
		{"nix (Nix) 2.28.7", "Nix 2.28.7", 0}, {"nix (Nix) 2.34.7", "Nix 2.34.7", 0}, {"nix (Nix) 2.35.0pre20260101_abc", "Nix 2.35.0", 0},
		{"nix (Lix, like Nix) 2.95.1", "Lix 2.95.1", 1}, {"nix (Lix, like Nix) 2.95.2", "Lix 2.95.2", 0}, {"something", "something", 0},
	} {
		if name, flaws := flawsOf(c.version); name != c.name || len(flaws) != c.flaws {
			t.Errorf("flawsOf(%q) = %q, %q, want %q and %d", c.version, name, flaws, c.name, c.flaws)
		}
	}
}

func TestProxyOf(t *testing.T) {
	for _, c := range []struct {
		environ       []string
		proxy, except string
	}{
		{nil, "", ""}, {[]string{"http_proxy=http://x", "no_proxy=a,127.0.0.1"}, "http_proxy", "a,127.0.0.1"},
		{[]string{"HTTP_PROXY=http://x"}, "", ""}, {[]string{"ALL_PROXY=socks5://x"}, "ALL_PROXY", ""}, {[]string{"http_proxy="}, "", ""},
	} {
		if proxy, except := proxyOf(c.environ); proxy != c.proxy || except != c.except {
			t.Errorf("proxyOf(%q) = %q, %q, want %q, %q", c.environ, proxy, except, c.proxy, c.except)
		}
	}
}

// Any machine can send announcements, so only addresses are taken from them, and not many.
func TestHearingKeepsAddresses(t *testing.T) {
	const nas, desk = "12D3KooWLg7mVwJ9mGvxDAgkg2NBFXW2Us9Ygk8ZKwJPqPnWkUgR", "12D3KooWAcuYAaPsKyUDgDLYJUBVgEWDrFHCpoqV9mQNPqhGa7vZ"
	h := hearing{peers: map[string][]string{}}
	good := "dnsaddr=/ip4/192.168.1.5/tcp/6273/p2p/" + nas
	h.add(&zeroconf.ServiceEntry{Text: []string{good, "dnsaddr=/dns4/evil.example/tcp/1/p2p/" + desk, "x",
		"dnsaddr=/ip4/1.2.3.4/udp/1/p2p/" + desk, "dnsaddr=//////"}})
	if len(h.peers) != 1 || !slices.Equal(h.peers[nas], []string{"192.168.1.5:6273"}) {
		t.Errorf("heard %v", h.peers)
	}
	for i := range 200 {
		h.add(&zeroconf.ServiceEntry{Text: []string{good + strings.Repeat("x", i)}})
		h.add(&zeroconf.ServiceEntry{Text: []string{good}})
	}
	if len(h.peers) > maxHeard || len(h.peers[nas]) > 4 {
		t.Errorf("%d peers, %d addresses of one", len(h.peers), len(h.peers[nas]))
	}
}

func TestPortOwnersAreFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	owners := portOwners(port)
	if len(owners) != 1 || owners[0].pid != os.Getpid() {
		t.Errorf("portOwners(%s) = %v, want this process", port, owners)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := l.Addr().String()
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := shut.Addr().String()
	shut.Close()
	defer l.Close()
	if got := unreachable(context.Background(), map[string][]string{"a": {closed, open}, "b": {closed}}); len(got) != 1 {
		t.Errorf("unreachable = %q, want b's address alone", got)
	}
}

func TestHealthThatNoCheckLooksAtIsPassedOn(t *testing.T) {
	p := &patient{running: true, status: control.Status{Health: []Finding{{Code: "keys", Severity: severityError},
		{Code: "nothing-shared", Severity: severityWarning, Title: "Nothing", Text: "goes."}}}}
	if got := checkHealth(t.Context(), p); len(got) != 1 || got[0].Code != "nothing-shared" || got[0].Text != "Nothing: goes." {
		t.Errorf("checkHealth = %+v, want what no check looks at", got)
	}
	p.status.Health = []Finding{{Code: CodeOtherKeys, Severity: severityInfo}}
	if got := checkHealth(t.Context(), p); len(got) != 1 || got[0].Severity != severityWarning {
		t.Errorf("checkHealth = %+v, want a warning of another key", got)
	}
}

func TestChecksOfARunningNarborAreSkippedWithoutOne(t *testing.T) {
	chosen := slices.DeleteFunc(Checks(), func(ch Check) bool { return !ch.needsNarbor })
	var codes []string
	for _, ch := range chosen {
		codes = append(codes, ch.Code)
	}
	if want := "keys probe network multicast neighbours disk rebuilds health"; strings.Join(codes, " ") != want {
		t.Errorf("the checks that need narbor are %q, want %s", codes, want)
	}
	none := control.Client{Paths: []string{filepath.Join(t.TempDir(), control.SocketName)}, Timeout: control.Timeout}
	found := Diagnose(t.Context(), none, chosen)
	if len(found) != len(chosen) {
		t.Errorf("%d findings of %d checks: %+v", len(found), len(chosen), found)
	}
	for _, f := range found {
		if f.Severity != severitySkipped || f.Text != f.Code+": narbor is not running" {
			t.Errorf("%s: %+v, want it to be skipped", f.Code, f)
		}
	}
}

func TestFullDiskIsAnError(t *testing.T) {
	for _, c := range []struct {
		free, minFree int64
		severity      string
	}{
		{0, 2 << 30, severityError}, {0, 0, severityError}, {1 << 30, 2 << 30, severityError}, {3 << 30, 2 << 30, severityWarning},
		{1, 0, severityOK}, {5 << 30, 2 << 30, severityOK}, {-1, 2 << 30, severitySkipped}, {-1, 0, severitySkipped},
	} {
		p := &patient{running: true, status: control.Status{Spool: control.SpoolStatus{FreeBytes: c.free, MinFree: c.minFree}}}
		if got := checkDisk(t.Context(), p); len(got) != 1 || got[0].Severity != c.severity {
			t.Errorf("checkDisk with %d bytes free, of which %d are to be left = %+v, want %s", c.free, c.minFree, got, c.severity)
		}
	}
}

func TestProbeOfANarborThatDoesNotListen(t *testing.T) {
	if got := checkProbe(t.Context(), &patient{running: true}); len(got) != 1 || got[0].Severity != severitySkipped ||
		!strings.Contains(got[0].Text, "does not listen") {
		t.Errorf("checkProbe = %+v, want it to be skipped, and why", got)
	}
}
