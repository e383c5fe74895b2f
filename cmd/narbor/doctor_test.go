package main

import (
	"path/filepath"
	"strings"
	"testing"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
)

func TestDoctorReadsWell(t *testing.T) {
	golden(t, "doctor", Diagnosis{Findings: []control.Health{
		{Severity: control.SeverityOK, Text: "narbor 0.1.0 answers, up 3 d 4 h"},
		{Severity: control.SeverityOK, Text: "Nix asks http://127.0.0.1:6272 (/etc/nix/nix.conf:14)"},
		{Severity: control.SeverityError, Text: "the firewall keeps neighbours out: TCP 6273 on wlp3s0, UDP 5353 on wlp3s0",
			Fix:     "services.narbor.openFirewall = true; (the command lasts until the next switch)",
			Command: "nft insert rule inet nixos-fw input tcp dport 6273 accept", AsUser: true}, // and so without sudo
		{Severity: control.SeverityWarning, Text: "1 machine is heard but cannot be reached: 192.168.1.23",
			Fix: "open TCP port 6273 over there (narbor doctor firewall), or turn off client isolation, also called AP or guest " +
				"isolation, in the access point"},
		{Severity: control.SeverityInfo,
			Text: "UDP port 5353 is shared with avahi-daemon, which is well as long as the announcement is heard"},
		{Severity: control.SeveritySkipped, Text: "there is no Nix on this machine to ask narbor"},
	}}.print)
}

// An old Nix is warned of, and is no fault of narbor's.
func TestOldNixIsNoFaultOfNarbors(t *testing.T) {
	old := control.Health{Code: doctor.CodeVersion, Severity: control.SeverityWarning}
	for _, c := range []struct {
		found []control.Health
		want  int
	}{
		{[]control.Health{old}, 0},
		{[]control.Health{old, {Code: "neighbours", Severity: control.SeverityWarning}, old}, exit.Degraded},
		{[]control.Health{old, {Code: "nix", Severity: control.SeverityError}, old}, exit.Failure},
	} {
		if got := (Diagnosis{Findings: c.found}).exit(); got != c.want {
			t.Errorf("%v ends with %d, want %d", c.found, got, c.want)
		}
	}
}

func TestDoctorWithoutNarbor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	out, _, err := narbor(t.Context(), "doctor", "running", "keys", "--socket", socket)
	if exit.Code(err) != exit.Failure || !strings.Contains(out, "narbor is not running") {
		t.Errorf("doctor = %v\n%s", err, out)
	}
	if _, _, err := narbor(t.Context(), "doctor", "luck"); exit.Code(err) != exit.Usage {
		t.Errorf("doctor luck = %v, want a usage error", err)
	}
}
