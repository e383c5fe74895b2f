package main

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

func TestDoctorReadsWell(t *testing.T) {
	golden(t, "doctor", Diagnosis{Findings: []Finding{
		fine("narbor 0.1.0 answers, up 3 d 4 h"),
		fine("Nix asks http://127.0.0.1:6272 (/etc/nix/nix.conf:14)"),
		{Severity: severityError, Text: "the firewall keeps neighbours out: TCP 6273 on wlp3s0, UDP 5353 on wlp3s0",
			Fix:     "services.narbor.openFirewall = true; (the command lasts until the next switch)",
			Command: "nft insert rule inet nixos-fw input tcp dport 6273 accept"},
		{Severity: severityWarning, Text: "1 machine is heard but cannot be reached: 192.168.1.23",
			Fix: "open TCP port 6273 over there (narbor doctor firewall), or turn off client isolation, also called AP or guest " +
				"isolation, in the access point"},
		{Severity: severityInfo, Text: "UDP port 5353 is shared with avahi-daemon, which is well as long as the announcement is heard"},
		skipped("there is no Nix on this machine to ask narbor"),
	}}.print)
}

// An old Nix is warned of, and is no fault of narbor's.
func TestOldNixIsNoFaultOfNarbors(t *testing.T) {
	old := Finding{Code: codeVersion, Severity: severityWarning}
	for _, c := range []struct {
		found []Finding
		want  int
	}{
		{[]Finding{old}, 0},
		{[]Finding{old, {Code: "neighbours", Severity: severityWarning}, old}, control.ExitDegraded},
		{[]Finding{old, {Code: "nix", Severity: severityError}, old}, control.ExitFailure},
	} {
		if got := (Diagnosis{Findings: c.found}).exit(); got != c.want {
			t.Errorf("%v ends with %d, want %d", c.found, got, c.want)
		}
	}
}

func TestDoctorWithoutNarbor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	out, _, err := narbor(t.Context(), "doctor", "running", "keys", "--socket", socket)
	if exit(err) != control.ExitFailure || !strings.Contains(out, "narbor is not running") {
		t.Errorf("doctor = %v\n%s", err, out)
	}
	if _, _, err := narbor(t.Context(), "doctor", "luck"); exit(err) != control.ExitUsage {
		t.Errorf("doctor luck = %v, want a usage error", err)
	}
}

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
	h := hearing{peers: map[string][]string{}}
	good := "dnsaddr=/ip4/192.168.1.5/tcp/6273/p2p/" + idNAS
	h.add(&zeroconf.ServiceEntry{Text: []string{good, "dnsaddr=/dns4/evil.example/tcp/1/p2p/" + idDesk, "x",
		"dnsaddr=/ip4/1.2.3.4/udp/1/p2p/" + idDesk, "dnsaddr=//////"}})
	if len(h.peers) != 1 || !slices.Equal(h.peers[idNAS], []string{"192.168.1.5:6273"}) {
		t.Errorf("heard %v", h.peers)
	}
	for i := range 200 {
		h.add(&zeroconf.ServiceEntry{Text: []string{good + strings.Repeat("x", i)}})
		h.add(&zeroconf.ServiceEntry{Text: []string{good}})
	}
	if len(h.peers) > maxHeard || len(h.peers[idNAS]) > 4 {
		t.Errorf("%d peers, %d addresses of one", len(h.peers), len(h.peers[idNAS]))
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
