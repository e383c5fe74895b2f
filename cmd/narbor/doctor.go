package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
	"narbor/store/nixconf"
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

// Diagnosis is what `narbor doctor --json` prints.
type Diagnosis struct {
	Schema   int       `json:"schema"`
	Findings []Finding `json:"findings"`
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

func doctorCommand() *cli.Command {
	var list strings.Builder
	for _, ch := range checks() {
		fmt.Fprintf(&list, "   %-11s %s\n", ch.code, ch.what)
	}
	return &cli.Command{
		Name:      "doctor",
		Usage:     "find out what keeps Nix from getting paths from neighbours, and how to mend it",
		ArgsUsage: "[CHECK…]",
		Description: "It looks at everything in order, or at the checks that are named, and shows a fix to copy for each\n" +
			"problem. Root sees more: what the firewall does where no neighbour can try it, and which program has a port.\n\n" +
			list.String() + "\n" +
			"Exit code 4 means that narbor could work better, 1 that something is wrong. A Nix with known flaws is warned of,\n" +
			"but is no fault of narbor's: it alone leaves the code 0.\n\n" +
			"Examples:\n   sudo narbor doctor\n   sudo narbor doctor --fix firewall",
		Flags: append(controlFlags(),
			&cli.BoolFlag{Name: "fix", Usage: "apply the fixes that take nothing away from any user, after asking"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "with --fix, do not ask"}),
		Action: doctor,
	}
}

func doctor(c *cli.Context) error {
	chosen, err := choose(c.Args().Slice())
	if err != nil {
		return err
	}
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	d := diagnose(c.Context, ctl, chosen)
	if c.Bool("fix") {
		f := fixer{c: c, screen: newScreen(c), look: func(code string) []Finding { return recheck(c.Context, ctl, code) }}
		if err := f.fixAll(d); err != nil {
			return err
		}
		d = f.settle(diagnose(c.Context, ctl, chosen))
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, d)
	} else {
		d.print(newScreen(c))
	}
	if code := d.exit(); err == nil && code != 0 {
		err = control.WithCode(errors.New(""), code)
	}
	return err
}

// choose returns the checks of these names, or all.
func choose(names []string) ([]check, error) {
	all := checks()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(ch check) bool { return ch.code == name }) {
			return nil, control.WithCode(fmt.Errorf("there is no check %q; see narbor doctor --help", name), control.ExitUsage)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(ch check) bool { return !slices.Contains(names, ch.code) }), nil
}

// diagnose makes the checks.
func diagnose(ctx context.Context, ctl control.Client, chosen []check) Diagnosis {
	p := &patient{ctl: ctl, root: os.Geteuid() == 0, systemd: hasSystemd(), nixOS: nixconf.OnNixOS()}
	p.settings, p.confErr = nixconf.Read(ctx)
	running := checkRunning(ctx, p) // every other needs to know
	d := Diagnosis{Schema: control.Schema, Findings: []Finding{}}
	for _, ch := range chosen {
		found := running
		if ch.code != "running" {
			found = ch.look(ctx, p)
		}
		for _, f := range found {
			if f.Code == "" {
				f.Code = ch.code
			}
			d.Findings = append(d.Findings, f)
		}
	}
	return d
}

// exit is the exit code.
func (d Diagnosis) exit() int {
	code := 0
	for _, f := range d.Findings {
		switch f.Severity {
		case severityError:
			return control.ExitFailure
		case severityWarning:
			if f.Code != codeVersion { // an old Nix is worth a word, but keeps narbor from nothing
				code = control.ExitDegraded
			}
		}
	}
	return code
}

// mark is the sign before a finding.
func (s screen) mark(severity string) string {
	switch severity {
	case severityOK:
		return s.paint(green, " ✔ ")
	case severityError:
		return s.paint(red, " ✘ ")
	case severityWarning:
		return s.paint(yellow, " ! ")
	case severityInfo:
		return " · "
	}
	return " - "
}

func (d Diagnosis) print(s screen) {
	count := map[string]int{}
	for _, f := range d.Findings {
		count[f.Severity]++
		for i, line := range wrap(f.Text, max(s.width-3, 24)) {
			first := s.mark(f.Severity)
			if i > 0 {
				first = "   "
			}
			fmt.Fprintln(s, first+line)
		}
		if f.Fix != "" {
			s.hang("   fix: ", f.Fix)
		}
		if f.Command != "" {
			command := f.Command
			if !f.AsUser {
				command = asRoot(command)
			}
			fmt.Fprintf(s, "     %s\n", command)
		}
	}
	switch errors, warnings := count[severityError], count[severityWarning]; {
	case errors > 0 && warnings > 0:
		fmt.Fprintf(s, "%s, %s\n", dashboard.Plural(errors, "failure"), dashboard.Plural(warnings, "warning"))
	case errors > 0:
		fmt.Fprintf(s, "%s; everything else is well\n", dashboard.Plural(errors, "failure"))
	case warnings > 0:
		fmt.Fprintf(s, "%s; everything else is well\n", dashboard.Plural(warnings, "warning"))
	default:
		fmt.Fprintln(s, "everything is well")
	}
}

// asRoot is how to run a command as root from here.
func asRoot(command string) string {
	if os.Geteuid() == 0 {
		return command
	}
	return "sudo sh -c " + shellQuote(command)
}
