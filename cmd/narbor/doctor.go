package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
)

// Diagnosis is what `narbor doctor --json` prints.
type Diagnosis struct {
	Schema   int              `json:"schema"`
	Findings []control.Health `json:"findings"`
}

func doctorCommand() *cli.Command {
	var list strings.Builder
	for _, ch := range doctor.Checks() {
		fmt.Fprintf(&list, "   %-11s %s\n", ch.Code, ch.What)
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
		Action: runDoctor,
	}
}

func runDoctor(c *cli.Context) error {
	chosen, err := doctor.Choose(c.Args().Slice())
	if err != nil {
		return exit.With(err, exit.Usage)
	}
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	found := doctor.Diagnose(c.Context, ctl, chosen)
	if c.Bool("fix") {
		f, err := newFixer(c, ctl)
		if err != nil {
			return err
		}
		f.FixAll(c.Context, found)
		found = f.Settle(doctor.Diagnose(c.Context, ctl, chosen))
	}
	d := Diagnosis{Schema: control.Schema, Findings: found}
	err = show(c, d, d.print)
	if code := d.exit(); err == nil && code != 0 {
		err = exit.With(errors.New(""), code)
	}
	return err
}

// newFixer returns what applies the fixes of the findings. With --json, what it says goes to standard error.
func newFixer(c *cli.Context, ctl control.Client) (*doctor.Fixer, error) {
	if !c.Bool("yes") && !isTerminal(os.Stdin) {
		return nil, exit.With(errors.New("there is no terminal to ask on: give --yes as well"), exit.Usage)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can mend things: sudo narbor doctor --fix")
	}
	s := newScreen(c)
	if c.Bool("json") {
		s.Writer = c.App.ErrWriter
	}
	return &doctor.Fixer{Out: s, Say: s.hang, Mark: s.mark, Yes: c.Bool("yes"), Control: ctl}, nil
}

// exit is the exit code.
func (d Diagnosis) exit() int {
	code := 0
	for _, f := range d.Findings {
		switch f.Severity {
		case control.SeverityError:
			return exit.Failure
		case control.SeverityWarning:
			if f.Code != doctor.CodeVersion { // an old Nix is worth a word, but keeps narbor from nothing
				code = exit.Degraded
			}
		}
	}
	return code
}

func (d Diagnosis) print(s screen) {
	count := map[string]int{}
	for _, f := range d.Findings {
		count[f.Severity]++
		for i, line := range dashboard.Wrap(f.Text, max(s.width-3, 24)) {
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
				command = doctor.AsRoot(command)
			}
			fmt.Fprintf(s, "     %s\n", command)
		}
	}
	switch errors, warnings := count[control.SeverityError], count[control.SeverityWarning]; {
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
