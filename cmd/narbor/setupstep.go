package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"narbor/cmd/narbor/control"
)

// setupTimeout bounds a step that is another program's.
const setupTimeout = time.Minute

// A setup installs narbor on a machine that no other tool configures, or takes it away.
type setup struct {
	screen
	systemd bool // it runs here, and can be told
	darwin  bool
	nix     bool // configure it
	only    bool // nothing but that
	restart bool // restart nix-daemon, or tell the user to
}

// did prints a completed step.
func (s setup) did(format string, args ...any) {
	s.hang(s.mark(control.SeverityOK), fmt.Sprintf(format, args...))
}

// todo prints a step that is left to the user.
func (s setup) todo(format string, args ...any) {
	s.hang(s.mark(control.SeverityWarning), fmt.Sprintf(format, args...))
}

// run runs a command, and puts what it says into the error.
func (s setup) run(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}
