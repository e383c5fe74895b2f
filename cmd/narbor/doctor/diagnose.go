// Package doctor finds out what keeps Nix from getting paths from neighbours, and applies fixes.
//
// [Diagnose] makes [Checks] one after another: it asks the narbor that runs, by the control socket, reads Nix's
// configuration and the state of its daemon, and tries the firewall in a copy of its rules. It changes nothing. A
// [Fixer] runs the commands of findings that are safe, and repeats their checks. What the checks know about nix-daemon
// and systemd is also for setup and unsetup. The package prints only by the functions that a Fixer is given, keeps no
// state between calls, and its goroutines end before a call returns. One Diagnose or Fixer runs at a time.
package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"

	"narbor/cmd/narbor/control"
	"narbor/store/nixconf"
)

// A Check looks at one thing.
type Check struct {
	Code        string
	What        string // is looked at
	needsNarbor bool   // skipped unless narbor runs
	look        func(context.Context, *patient) []Finding
}

// Checks are all of them, in the order in which one thing needs another.
func Checks() []Check {
	return []Check{
		{"running", "narbor answers", false, checkRunning},
		{"nix", "Nix asks it", false, checkNixAsks},
		{"settings", "narbor has the keys and substituters that Nix has", false, checkSettings},
		{"proxy", "no proxy is between them", false, checkProxy},
		{"signatures", "Nix requires signatures", false, checkSignatures},
		{"keys", "there are trusted keys", true, checkKeys},
		{"probe", "an unknown path is answered with 404, at once", true, checkProbe},
		{"firewall", "neighbours may reach this machine", false, checkFirewall},
		{"network", "there is a network to look for neighbours on", true, checkNetwork},
		{"multicast", "its own announcement is heard", true, checkMulticast},
		{"neighbours", "a neighbour is connected", true, checkNeighbours},
		{"isolation", "machines that announce themselves can be reached", false, checkIsolation},
		{CodeVersion, "Nix has no known flaw in reading archives", false, checkVersion},
		{"ports", "no other program has its ports", false, checkPorts},
		{"disk", "there is room to verify archives", true, checkDisk},
		{"clock", "the clock is right", false, checkClock},
		{"rebuilds", "old versions are kept until an update is through", true, checkRebuilds},
		{"health", "narbor reports no other problem, as on its page", true, checkHealth},
	}
}

// Choose returns the checks of these names, or all.
func Choose(names []string) ([]Check, error) {
	all := Checks()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(ch Check) bool { return ch.Code == name }) {
			return nil, fmt.Errorf("there is no check %q; see narbor doctor --help", name)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(ch Check) bool { return !slices.Contains(names, ch.Code) }), nil
}

// Diagnose makes the checks.
func Diagnose(ctx context.Context, ctl control.Client, chosen []Check) []Finding {
	p := &patient{ctl: ctl, root: os.Geteuid() == 0, systemd: HasSystemd(), nixOS: nixconf.OnNixOS()}
	p.settings, p.confErr = nixconf.Read(ctx)
	running := checkRunning(ctx, p) // every other needs to know
	all := []Finding{}
	for _, ch := range chosen {
		found := running
		switch {
		case ch.Code == "running":
		case ch.needsNarbor && !p.running:
			found = []Finding{skipped("%s: narbor is not running", ch.Code)}
		default:
			found = ch.look(ctx, p)
		}
		for _, f := range found {
			if f.Code == "" {
				f.Code = ch.Code
			}
			all = append(all, f)
		}
	}
	return all
}

// CodeOtherKeys is a finding that doctor reports as a warning and the page does not, because any neighbour can cause
// it.
const CodeOtherKeys = "other-keys"

// checkHealth reports the problems of the running service that no other check covers.
func checkHealth(_ context.Context, p *patient) []Finding {
	rest := slices.DeleteFunc(slices.Clone(p.status.Health), func(h control.Health) bool {
		return slices.ContainsFunc(Checks(), func(ch Check) bool { return ch.Code == h.Code })
	})
	if len(rest) == 0 {
		return []Finding{fine("narbor complains of nothing else")}
	}
	for i, h := range rest {
		rest[i].Title, rest[i].Text = "", h.Title+": "+h.Text
		if h.Code == CodeOtherKeys {
			rest[i].Severity = severityWarning
		}
	}
	return rest
}
