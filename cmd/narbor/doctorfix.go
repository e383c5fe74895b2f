package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
)

const (
	// settleTimeout is how long a fix may take to have an effect: a service starts, and narbor reads nix.conf again.
	settleTimeout = 10 * time.Second
	// settleEvery is how often that is looked at.
	settleEvery = 250 * time.Millisecond
)

// A fixer runs the commands of findings, and makes the same checks again.
type fixer struct {
	c *cli.Context
	screen
	look func(code string) []Finding // makes one check

	found []Finding // before anything was mended
	tried []string  // commands that were run without success: their checks still fail
}

// fixAll runs the commands that are safe, after asking.
func (f *fixer) fixAll(d Diagnosis) error {
	f.found = d.Findings
	todo := slices.DeleteFunc(slices.Clone(d.Findings), func(found Finding) bool { return found.Command == "" || !found.Safe })
	if os.Geteuid() != 0 {
		return errors.New("only root can mend things: sudo narbor doctor --fix")
	}
	in := bufio.NewReader(os.Stdin)
	if !f.c.Bool("yes") && !isTerminal(os.Stdin) {
		return control.WithCode(errors.New("there is no terminal to ask on: give --yes as well"), control.ExitUsage)
	}
	if f.c.Bool("json") {
		f.Writer = f.c.App.ErrWriter
	}
	for _, found := range todo {
		f.hang(f.mark(found.Severity), found.Text)
		fmt.Fprintf(f, "    %s\n", found.Command)
		if f.c.Bool("yes") || agreed(f, in) {
			f.fix(f.c.Context, found)
		}
	}
	return nil
}

// fix runs a finding's command, and then makes the check again until it finds that no more, or time is up.
func (f *fixer) fix(ctx context.Context, found Finding) {
	cmd := exec.CommandContext(ctx, "sh", "-c", found.Command)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Run(); err != nil {
		f.tried = append(f.tried, found.Command)
		fmt.Fprintf(f, "    that failed: %v\n", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		left := f.left(found)
		if len(left) == 0 {
			fmt.Fprintln(f, "    that helped")
			return
		}
		select {
		case <-time.After(settleEvery):
			continue
		case <-ctx.Done():
		}
		if left[0].Command == found.Command || left[0].Text == found.Text {
			f.tried = append(f.tried, found.Command)
			f.hang("    that did not help: ", left[0].Text)
		} else {
			f.hang("    that helped, and this is left: ", left[0].Text)
		}
		return
	}
}

// left repeats the check of a finding, and returns the problems that no other finding reported before.
func (f *fixer) left(found Finding) []Finding {
	return slices.DeleteFunc(f.look(found.Code), func(now Finding) bool {
		before := slices.ContainsFunc(f.found, func(b Finding) bool { return b.Text == now.Text && b.Text != found.Text })
		return now.Code != found.Code || !now.Degraded() || before
	})
}

// settle moves commands that have not helped from the fixes of a diagnosis to its texts.
func (f *fixer) settle(d Diagnosis) Diagnosis {
	for i, found := range d.Findings {
		if found.Command == "" || !slices.Contains(f.tried, found.Command) {
			continue
		}
		d.Findings[i].Text += " (this command has not helped: " + found.Command + ")"
		d.Findings[i].Command, d.Findings[i].Safe = "", false
	}
	return d
}

// recheck makes one check anew.
func recheck(ctx context.Context, ctl control.Client, code string) []Finding {
	chosen, err := choose([]string{code})
	if err != nil { // a finding of narbor's own, which the check "health" passes on
		chosen, _ = choose([]string{"health"})
	}
	return diagnose(ctx, ctl, chosen).Findings
}

func agreed(w io.Writer, in *bufio.Reader) bool {
	fmt.Fprint(w, "    run it? [y/N] ")
	answer, err := in.ReadString('\n')
	return err == nil && strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y")
}
