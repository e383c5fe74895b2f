package doctor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"narbor/cmd/narbor/control"
)

const (
	// settleTimeout is how long a fix may take to have an effect: a service starts, and narbor reads nix.conf again.
	settleTimeout = 10 * time.Second
	// settleEvery is how often that is looked at.
	settleEvery = 250 * time.Millisecond
)

// A Fixer runs the commands of findings, and makes the same checks again.
type Fixer struct {
	Yes     bool                         // do not ask
	Out     io.Writer                    // of commands, too
	Say     func(first, text string)     // prints a text behind first, wrapped
	Mark    func(severity string) string // returns the sign before a finding
	Control control.Client

	look  func(code string) []Finding // makes one check
	found []Finding                   // before anything was mended
	tried []string                    // commands that were run without success: their checks still fail
}

// FixAll runs the commands that are safe, after asking.
func (f *Fixer) FixAll(ctx context.Context, findings []Finding) {
	f.found = findings
	f.look = func(code string) []Finding { return recheck(ctx, f.Control, code) }
	in := bufio.NewReader(os.Stdin)
	for _, found := range findings {
		if found.Command == "" || !found.Safe {
			continue
		}
		f.Say(f.Mark(found.Severity), found.Text)
		fmt.Fprintf(f.Out, "    %s\n", found.Command)
		if f.Yes || agreed(f.Out, in) {
			f.fix(ctx, found)
		}
	}
}

// fix runs a finding's command, and then makes the check again until it finds that no more, or time is up.
func (f *Fixer) fix(ctx context.Context, found Finding) {
	cmd := exec.CommandContext(ctx, "sh", "-c", found.Command)
	cmd.Stdout, cmd.Stderr = f.Out, f.Out
	if err := cmd.Run(); err != nil {
		f.tried = append(f.tried, found.Command)
		fmt.Fprintf(f.Out, "    that failed: %v\n", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		left := f.left(found)
		if len(left) == 0 {
			fmt.Fprintln(f.Out, "    that helped")
			return
		}
		select {
		case <-time.After(settleEvery):
			continue
		case <-ctx.Done():
		}
		if left[0].Command == found.Command || left[0].Text == found.Text {
			f.tried = append(f.tried, found.Command)
			f.Say("    that did not help: ", left[0].Text)
		} else {
			f.Say("    that helped, and this is left: ", left[0].Text)
		}
		return
	}
}

// left repeats the check of a finding, and returns the problems that no other finding reported before.
func (f *Fixer) left(found Finding) []Finding {
	return slices.DeleteFunc(f.look(found.Code), func(now Finding) bool {
		before := slices.ContainsFunc(f.found, func(b Finding) bool { return b.Text == now.Text && b.Text != found.Text })
		return now.Code != found.Code || !now.Degraded() || before
	})
}

// Settle moves commands that have not helped from the fixes of findings to their texts.
func (f *Fixer) Settle(findings []Finding) []Finding {
	for i, found := range findings {
		if found.Command == "" || !slices.Contains(f.tried, found.Command) {
			continue
		}
		findings[i].Text += " (this command has not helped: " + found.Command + ")"
		findings[i].Command, findings[i].Safe = "", false
	}
	return findings
}

func recheck(ctx context.Context, ctl control.Client, code string) []Finding {
	chosen, err := Choose([]string{code})
	if err != nil { // a finding of narbor's own, which the check "health" passes on
		chosen, _ = Choose([]string{"health"})
	}
	return Diagnose(ctx, ctl, chosen)
}

func agreed(w io.Writer, in *bufio.Reader) bool {
	fmt.Fprint(w, "    run it? [y/N] ")
	answer, err := in.ReadString('\n')
	return err == nil && strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y")
}
