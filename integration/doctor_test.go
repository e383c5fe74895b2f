package integration_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
)

// A finding is what `narbor doctor --json` says of one check.
type finding struct {
	Code, Severity, Text, Fix, Command string
	Safe                               bool
}

// doctor runs some of the checks as root, and returns the worst that they find.
func (w world) doctor(h *lan.Host, args ...string) finding {
	w.Helper()
	out, _ := h.Run(w.ctx, narbor, append([]string{"doctor", "--json"}, args...)...) // it fails if it finds something
	var d struct{ Findings []finding }
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d.Findings) == 0 {
		w.Fatalf("%s: narbor doctor %q = %q, %v", h.Name, args, out, err)
	}
	worst := d.Findings[0]
	for _, f := range d.Findings {
		if rank := []string{"skipped", "ok", "info", "warning", "error"}; slices.Index(rank, f.Severity) > slices.Index(rank,
			worst.Severity) {
			worst = f
		}
	}
	return worst
}

// wrong wants the check to find something of that severity.
func (w world) wrong(h *lan.Host, severity, check, text string) finding {
	w.Helper()
	f := w.doctor(h, check)
	if f.Severity != severity || !strings.Contains(f.Text, text) {
		w.Errorf("%s: doctor %s finds %+v, want %s about %q", h.Name, check, f, severity, text)
	}
	return f
}

// well waits until the check finds nothing: what was mended may need a moment.
func (w world) well(h *lan.Host, check string) {
	w.Helper()
	var f finding
	for deadline := time.Now().Add(lan.AtMost(40 * time.Second)); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if f = w.doctor(h, check); f.Severity == "ok" {
			return
		}
	}
	w.Errorf("%s: doctor %s finds %+v, want that it is well", h.Name, check, f)
}

// shell runs a script on a host.
func (w world) shell(h *lan.Host, script string) string {
	w.Helper()
	out, err := h.Run(w.ctx, "sh", "-c", script)
	w.must(err)
	return strings.TrimSpace(out)
}

// Each check of the doctor finds the one fault of a machine, and the fix that it shows repairs the fault.
func TestDoctorFindsAndMends(t *testing.T) {
	w := newWorld(t)
	other := w.host(lan.HostConfig{Name: "other"}, "substituters = "+lan.Substituter)
	h := w.host(lan.HostConfig{Name: "desk", StateBytes: 256 << 20}, "substituters =", "trusted-public-keys =")
	w.wrong(h, "error", "running", "not running")
	w.wrong(h, "skipped", "disk", "not running")

	p := w.start(h)
	w.well(h, "running")
	w.well(h, "probe")
	w.well(h, "firewall")
	w.well(h, "proxy")
	w.well(h, "clock")
	w.well(h, "multicast")

	keys := w.wrong(h, "error", "keys", "no key is trusted")
	w.shell(h, keys.Command) // read by itself; looked at below

	w.wrong(h, "error", "disk", "are to be left free")
	w.wrong(h, "warning", "neighbours", "no neighbour is connected")
	w.start(other)
	w.well(h, "neighbours")
	w.well(h, "isolation")

	nix := w.wrong(h, "error", "nix", "no substituters line")
	w.shell(h, nix.Command+" && touch -d '10 seconds' /etc/nix/nix.conf")
	w.wrong(h, "warning", "nix", "has not read it since")
	w.restartNixDaemon(h)
	w.well(h, "nix")
	w.shell(h, "echo 'substituters = https://cache.example.org' >> /etc/nix/nix.conf")
	if undone := w.wrong(h, "error", "nix", "undoes that"); !undone.Safe {
		t.Errorf("%+v could be mended by --fix", undone)
	}
	w.shell(h, narbor+" doctor --fix --yes nix || [ $? = 4 ]") // nix-daemon is yet to be restarted
	w.restartNixDaemon(h)
	w.well(h, "nix")

	w.shell(h, "echo 'require-sigs = false' >> /etc/nix/nix.conf")
	w.shell(h, w.wrong(h, "error", "signatures", "/etc/nix/nix.conf:").Command)
	w.well(h, "signatures")

	w.doctorFirewall(h)
	w.doctorIsolation(h, other, &p)

	w.shell(h, "touch -d '2 days' /etc/nix/nix.conf")
	w.wrong(h, "warning", "clock", "the clock says")
	w.shell(h, "touch -d '1 minute ago' /etc/nix/nix.conf") // as if the clock had been set
	w.well(h, "clock")

	w.well(h, "keys")
	w.doctorVersion(h)
	w.well(h, "ports")

	w.must(p.Terminate(30 * time.Second))
	w.start(h, "--min-free", "1MB")
	w.well(h, "disk")
}

// restartNixDaemon makes nix-daemon read its configuration, as systemctl would.
func (w world) restartNixDaemon(h *lan.Host) {
	w.Helper()
	w.shell(h, `for p in /proc/[0-9]*; do [ "$(cat $p/comm)" != nix-daemon ] || kill "${p#/proc/}"; done; touch -d '1 minute ago' `+
		`/etc/nix/nix.conf`)
	_, err := h.StartNixDaemon()
	w.must(err)
}

func (w world) doctorFirewall(h *lan.Host) {
	w.Helper()
	w.shell(h, "nft 'add table inet t; add chain inet t input { type filter hook input priority 0; policy drop; };"+
		"add rule inet t input ct state established,related accept; add rule inet t input iifname lo accept'")
	w.wrong(h, "error", "multicast", "is not heard")
	f := w.wrong(h, "error", "firewall", "TCP 6273 on eth0, UDP 5353 on eth0")
	w.shell(h, f.Command)
	w.well(h, "firewall")
	w.well(h, "multicast")
	w.shell(h, "nft 'flush chain inet t input; add chain inet t input { policy accept; }; add rule inet t input tcp dport 6272 reject'")
	w.wrong(h, "error", "probe", "no answer")
	w.shell(h, "nft delete table inet t")
	w.well(h, "probe")
}

// doctorIsolation lets multicast through and nothing else, as an access point does that keeps its clients apart.
func (w world) doctorIsolation(h, other *lan.Host, p **lan.Process) {
	w.Helper()
	w.shell(h, "nft 'add table inet t; add chain inet t out { type filter hook output priority 0; }; add rule inet t out oif eth0 meta "+
		"l4proto tcp drop;"+
		"add chain inet t in { type filter hook input priority 0; }; add rule inet t in iif eth0 meta l4proto tcp drop'")
	w.must((*p).Kill())
	*p = w.start(h)
	f := w.wrong(h, "warning", "isolation", "1 machine is heard but cannot be reached")
	if !strings.Contains(f.Text, other.Addr4.String()) && !strings.Contains(f.Text, other.Addr6.String()) {
		w.Errorf("%+v does not name %s", f, other.Addr4)
	}
	w.shell(h, "nft delete table inet t")
	w.well(h, "neighbours")
	w.well(h, "isolation")
}

// doctorVersion: the Nix that Debian has is old; a newer one is made of what it says of itself. nix-daemon's own
// counts.
func (w world) doctorVersion(h *lan.Host) {
	w.Helper()
	w.wrong(h, "warning", "version", "CVE-2026-44028")
	w.shell(h, "mkdir -p /tmp/new && printf '#!/bin/sh\\necho \"nix (Nix) 2.34.7\"\\n' > /tmp/new/nix && chmod +x /tmp/new/nix")
	out := strings.Join(strings.Fields(w.shell(h, "PATH=/tmp/new:$PATH "+narbor+" doctor version")), " ")
	if !strings.Contains(out, "nix-daemon (Nix 2.8.0) has known flaws") ||
		!strings.Contains(out, "nix in PATH is /tmp/new/nix (Nix 2.34.7)") {
		w.Errorf("doctor version with a newer Nix in PATH than nix-daemon is:\n%s", out)
	}
}

// The doctor names the program that has taken narbor's port, and reports a proxy in nix-daemon's environment.
func TestDoctorNamesProgramInTheWay(t *testing.T) {
	w := newWorld(t)
	bare, err := w.lan.Add(lan.HostConfig{Name: "bare", Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	pid := w.shell(bare, "perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0) and bind(S, sockaddr_in(6273, INADDR_ANY)) and listen(S, "+
		"1) or die; sleep' >/dev/null 2>&1 & echo $!")
	w.eventually(func() bool { return w.doctor(bare, "ports").Severity == "error" })
	w.wrong(bare, "error", "ports", "TCP port 6273 is taken by perl")
	w.shell(bare, "kill "+pid)
	w.eventually(func() bool { return w.doctor(bare, "ports").Severity == "ok" })

	pid = w.shell(bare, "http_proxy=http://192.0.2.1:3128 nix-daemon >/dev/null 2>&1 & echo $!")
	w.eventually(func() bool { return w.doctor(bare, "proxy").Severity == "error" })
	w.wrong(bare, "error", "proxy", "nix-daemon sends requests for 127.0.0.1 to a proxy")
	w.shell(bare, "kill "+pid+"; http_proxy=http://192.0.2.1:3128 no_proxy=127.0.0.1,localhost nix-daemon >/dev/null 2>&1 &")
	w.well(bare, "proxy")
}

// eventually waits for something that has no event.
func (w world) eventually(ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(lan.AtMost(30 * time.Second)); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatal("the condition does not become true within 30 s")
		}
	}
}
