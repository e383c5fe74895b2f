package discovery

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"narbor/p2p/netmon"
)

const scanEnv = "NARBOR_TEST_SCAN"

// A scanned is an interface as the policy saw it.
type scanned struct{ Name, Kind, Reason string }

// TestScanChild is not a test: it prints what the policy says of the interfaces where it runs.
func TestScanChild(t *testing.T) {
	allow, ok := os.LookupEnv(scanEnv)
	if !ok {
		return
	}
	p, err := netmon.NewPolicy(strings.Fields(allow), nil)
	if err != nil {
		t.Fatal(err)
	}
	links, err := p.Scan()
	if err != nil {
		t.Fatal(err)
	}
	var out []scanned
	for _, l := range links {
		out = append(out, scanned{l.Name, l.Kind, l.Reason})
	}
	text, err := json.Marshal(out)
	fmt.Printf("@%s\n", text)
	if err != nil {
		t.Fatal(err)
	}
}

// scan returns what the policy says of each interface of a machine.
func (h *testHost) scan(allow ...string) map[string]scanned {
	t := h.net.t
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := h.exec("", "env", scanEnv+"="+strings.Join(allow, " "), self, "-test.run=^TestScanChild$")
	_, line, _ := strings.Cut(out, "@")
	line, _, _ = strings.Cut(line, "\n")
	var links []scanned
	if err := json.Unmarshal([]byte(line), &links); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := make(map[string]scanned)
	for _, l := range links {
		got[l.Name] = l
	}
	return got
}

// addLink makes an interface and brings it up, and reports whether this kernel can. Only a module may be missing.
func (h *testHost) addLink(name, addr string, kind ...string) bool {
	h.net.t.Helper()
	args := append([]string{"-n", h.name, "link", "add", "name", name, "type"}, kind...)
	switch kind[0] {
	case "tun", "tap":
		args = []string{"-n", h.name, "tuntap", "add", name, "mode", kind[0]}
	case "macvlan", "vlan":
		args = append([]string{"-n", h.name, "link", "add", "link", "eth0", "name", name, "type"}, kind...)
	}
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		if !strings.Contains(string(out), "Unknown device type") && !strings.Contains(string(out), "/dev/net/tun") {
			h.net.t.Fatalf("ip %s: %s", strings.Join(args, " "), out)
		}
		h.net.t.Logf("left out: this kernel has no %s", kind[0])
		return false
	}
	h.ip("link", "set", name, "up")
	if addr != "" {
		h.ip("addr", "add", addr, "dev", name)
	}
	return true
}

// The kernel's description of real interfaces is understood.
func TestInterfacesOfEveryKind(t *testing.T) {
	t.Parallel()
	h := newTestNet(t).up("10.77.0.1/24")
	check := func(got map[string]scanned, want map[string]string) {
		t.Helper()
		for name, reason := range want {
			if have, ok := got[name]; !ok || (have.Reason == "") != (reason == "") || !strings.HasPrefix(have.Reason, reason) {
				t.Errorf("%s: %+v (there: %v), want %q", name, have, ok, reason)
			}
		}
	}
	check(h.scan(), map[string]string{"eth0": "", "lo": "loopback"}) // a container, or a host of a test's LAN

	// Without a card, which not every kernel can pretend to have, containers may be all there is.
	veth, bridge := "leads to a container", "bridge of containers"
	card := h.addLink("mac0", "10.2.0.1/24", "macvlan", "mode", "bridge")
	if !card && !h.addLink("vlan7", "10.2.0.1/24", "vlan", "id", "7") {
		veth, bridge = "", ""
	}
	want := map[string]string{"eth0": veth}
	kinds := map[string]string{"eth0": "veth"}
	for _, c := range []struct {
		name, addr, kind, reason string
		args                     []string
	}{
		{"ve-a", "10.1.0.1/24", "veth", veth, []string{"peer", "name", "ve-b"}},
		{"dum0", "10.3.0.1/24", "dummy", "no machine is behind it", nil},
		{"ifb7", "10.11.0.1/24", "ifb", "no machine is behind it", nil},
		{"vx0", "10.4.0.1/24", "vxlan", "tunnel (vxlan", []string{"id", "7", "dstport", "4789", "local", "10.77.0.1"}},
		{"home", "10.5.0.1/24", "wireguard", "tunnel (wireguard", nil},
		{"ipip9", "10.6.0.1/24", "ipip", "tunnel (ipip", []string{"local", "10.77.0.1", "remote", "10.77.0.2"}},
		{"cont", "10.7.0.1/24", "bridge", bridge, nil},
		{"docker0", "10.8.0.1/24", "bridge", "containers, by its name", nil},
		{"virbr7", "10.9.0.1/24", "bridge", "", nil},
		{"guests", "10.12.0.1/24", "bridge", "", nil},
		{"vpn0", "10.10.0.1/24", "tun", "no carrier", nil}, // no process holds it open
		{"tap7", "", "tap", "no carrier", nil},
	} {
		if h.addLink(c.name, c.addr, append([]string{c.kind}, c.args...)...) {
			want[c.name], kinds[c.name] = c.reason, c.kind
		}
	}
	h.ip("link", "set", "ve-b", "up")
	for _, b := range []string{"cont", "docker0", "virbr7", "guests"} {
		h.addLink("p-"+b, "", "veth", "peer", "name", "q-"+b)
		h.ip("link", "set", "q-"+b, "up")
		h.ip("link", "set", "p-"+b, "master", b)
		want["p-"+b] = "part of " + b
	}
	if kinds["tap7"] != "" {
		h.ip("link", "set", "tap7", "master", "guests")
	} else {
		want["guests"] = bridge
	}
	got := h.scan()
	check(got, want)
	for name, kind := range kinds {
		if got[name].Kind != kind {
			t.Errorf("%s is a %q, want %q", name, got[name].Kind, kind)
		}
	}
	check(h.scan("vx0", "docker*"), map[string]string{"vx0": "", "docker0": "", "eth0": "not among", "cont": "not among"})

	h.ip("route", "add", "default", "via", "10.77.0.254", "dev", "eth0")
	check(h.scan(), map[string]string{"eth0": "", "ve-a": veth})
}
