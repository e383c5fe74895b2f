package main

import (
	"context"
	"fmt"
	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
	"narbor/store/nixconf"
	"os"
	"slices"
)

const (
	severityOK      = dashboard.SeverityOK
	severityInfo    = dashboard.SeverityInfo
	severityWarning = dashboard.SeverityWarning
	severityError   = dashboard.SeverityError
	severitySkipped = dashboard.SeveritySkipped
)

// Finding is what one check of `narbor doctor` found. Its command is for a shell of root.
type Finding = dashboard.Health

func fine(format string, args ...any) Finding {
	return Finding{Severity: severityOK, Text: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) Finding {
	return Finding{Severity: severitySkipped, Text: fmt.Sprintf(format, args...)}
}

// A patient is what the checks look at. Each check adds what later ones need.
type patient struct {
	ctl      control.Client
	root     bool
	systemd  bool // it runs this machine
	nixOS    bool
	settings nixconf.Settings
	confErr  error
	running  bool
	status   control.Status // if running
	heard    hearing
	nix      nixProgram          // the Nix that uses narbor as a substituter, once asksNix has found it
	conf     map[string][]string // its settings
	nixErr   error
}

// A check looks at one thing.
type check struct {
	code string
	what string // is looked at
	look func(context.Context, *patient) []Finding
}

// checks are all of them, in the order in which one thing needs another.
func checks() []check {
	return []check{
		{"running", "narbor answers", checkRunning},
		{"nix", "Nix asks it", checkNixAsks},
		{"settings", "narbor has the keys and substituters that Nix has", checkSettings},
		{"proxy", "no proxy is between them", checkProxy},
		{"signatures", "Nix requires signatures", checkSignatures},
		{"keys", "there are trusted keys", checkKeys},
		{"probe", "an unknown path is answered with 404, at once", checkProbe},
		{"firewall", "neighbours may reach this machine", checkFirewall},
		{"network", "there is a network to look for neighbours on", checkNetwork},
		{"multicast", "its own announcement is heard", checkMulticast},
		{"neighbours", "a neighbour is connected", checkNeighbours},
		{"isolation", "machines that announce themselves can be reached", checkIsolation},
		{codeVersion, "Nix has no known flaw in reading archives", checkVersion},
		{"ports", "no other program has its ports", checkPorts},
		{"disk", "there is room to verify archives", checkDisk},
		{"clock", "the clock is right", checkClock},
		{"health", "narbor reports no other problem, as on its page", checkHealth},
	}
}

// choose returns the checks of these names, or all.
func choose(names []string) ([]check, error) {
	all := checks()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(ch check) bool { return ch.code == name }) {
			return nil, fmt.Errorf("there is no check %q; see narbor doctor --help", name)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(ch check) bool { return !slices.Contains(names, ch.code) }), nil
}

// diagnose makes the checks.
func diagnose(ctx context.Context, ctl control.Client, chosen []check) []Finding {
	p := &patient{ctl: ctl, root: os.Geteuid() == 0, systemd: hasSystemd(), nixOS: nixconf.OnNixOS()}
	p.settings, p.confErr = nixconf.Read(ctx)
	running := checkRunning(ctx, p) // every other needs to know
	all := []Finding{}
	for _, ch := range chosen {
		found := running
		if ch.code != "running" {
			found = ch.look(ctx, p)
		}
		for _, f := range found {
			if f.Code == "" {
				f.Code = ch.code
			}
			all = append(all, f)
		}
	}
	return all
}
