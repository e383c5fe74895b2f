package integration_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"narbor/integration/lan"
)

// A firewallFinding is what doctor says of the firewall.
type firewallFinding struct {
	Severity, Text string
	Means          []string
}

// firewall runs the check, as root or as narbor's user, and returns all that it finds.
func (w world) firewall(h *lan.Host, root bool) []firewallFinding {
	w.Helper()
	run := func(args ...string) (string, error) { return h.Narbor(w.ctx, narbor, args...) }
	if root {
		run = func(args ...string) (string, error) { return h.Run(w.ctx, narbor, args...) }
	}
	out, _ := run("doctor", "--json", "firewall") // it fails if it finds something
	var d struct{ Findings []firewallFinding }
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		w.Fatalf("%s: narbor doctor = %q, %v", h.Name, out, err)
	}
	return d.Findings
}

// The machine's kernel and a real neighbour decide which ports are open, beside a connection that was there before.
func TestFirewallIsTriedForReal(t *testing.T) {
	w := newWorld(t)
	other := w.host(lan.HostConfig{Name: "other"}, "substituters =")
	desk := w.host(lan.HostConfig{Name: "desk"}, "substituters =")
	w.must(desk.WriteFile("/etc/protocols", "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n"))
	w.shell(desk, "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
	p := w.start(other)
	w.start(desk, "--peer", other.Addr4.String())
	w.neighbours(desk, 1)
	says := func(root bool, severity, means string) func() bool {
		return func() bool {
			return slices.ContainsFunc(w.firewall(desk, root), func(f firewallFinding) bool {
				return f.Severity == severity && strings.Contains(f.Text, "TCP 6273 on eth0") && slices.Contains(f.Means, means)
			})
		}
	}
	for _, c := range []struct{ file, severity string }{
		{"firewalld-public.nft", "error"}, {"prerouting-drop.nft", "error"}, {"ratelimit.nft", "ok"}, {"named-map.nft", "ok"},
	} {
		rules, err := os.ReadFile("../cmd/narbor/doctor/testdata/firewall/" + c.file)
		w.must(err)
		w.must(desk.WriteFile("/tmp/rules", string(rules)))
		w.shell(desk, "nft flush ruleset && nft -f /tmp/rules")
		w.eventually(says(false, c.severity, "dial-back")) // neighbours ration it
		w.eventually(says(true, c.severity, "copy"))
	}
	if n := len(w.status(other).Neighbours); n != 1 {
		t.Errorf("after its dial-backs the neighbour has %d neighbours, want 1", n)
	}
	w.must(p.Kill())
	w.until(desk, "had no neighbour left", func(s lan.Status) bool { return len(s.Neighbours) == 0 })
	w.shell(desk, "nft flush ruleset")
	w.eventually(says(true, "ok", "copy"))
	if found := w.firewall(desk, false); found[0].Severity != "skipped" || !strings.Contains(found[0].Text, "cannot tell") {
		t.Errorf("a user without neighbours is told %+v, want that it cannot be told", found)
	}
}
