package lan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Configure appends lines to the host's nix.conf. A running daemon does not read them.
func (h *Host) Configure(lines ...string) error {
	c := h.command([]string{"sh", "-c", "cat >> /etc/nix/nix.conf"})
	c.stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	_, err := h.ns.run(context.Background(), c)
	return err
}

// StartNixDaemon starts the real nix-daemon and returns once it takes connections.
func (h *Host) StartNixDaemon() (*Process, error) {
	c := h.command([]string{"nix-daemon"})
	c.env = []string{"HOME=/root"} // without NIX_REMOTE, with which it would connect to itself
	p, err := h.start("nix-daemon", c)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(AtMost(readyTimeout)); ; time.Sleep(10 * time.Millisecond) {
		_, err := h.Run(context.Background(), "nix", "--extra-experimental-features", "nix-command", "store", "ping", "--store", "daemon")
		if err == nil {
			return p, nil
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// Realise makes Nix fetch the closures of store paths. It returns Nix's standard error.
func (h *Host) Realise(ctx context.Context, paths ...string) (said string, err error) {
	var b strings.Builder
	_, err = h.Watch(ctx, func(line string) { b.WriteString(line + "\n") }, append([]string{"nix-store", "--realise"}, paths...)...)
	return b.String(), err
}

// BuildCommand returns a command that makes Nix build a derivation that reads a file below each of the store paths. Nix
// fetches the paths first, and the substituters have no output of the derivation.
func BuildCommand(name string, paths ...string) []string {
	var inputs strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&inputs, "(builtins.storePath %q) ", p)
	}
	expr := fmt.Sprintf(`derivation { name = %q; system = builtins.currentSystem; builder = "/bin/sh";
		inputs = [ %s ]; args = [ "-c" "for i in $inputs; do read x < $i/nix-support/references; done; echo $inputs > $out" ]; }`,
		name, inputs.String())
	return []string{"nix-build", "--no-out-link", "--expr", expr}
}

// Verify lets Nix compare every valid path with its hash.
func (h *Host) Verify(ctx context.Context) error {
	_, err := h.Run(ctx, "nix-store", "--verify", "--check-contents")
	return err
}

// IsValid reports whether the path is in the host's Nix database.
func (h *Host) IsValid(ctx context.Context, path string) bool {
	_, err := h.Run(ctx, "nix-store", "--check-validity", path)
	return err == nil
}

// Requisites returns the paths of a closure.
func (h *Host) Requisites(ctx context.Context, path string) ([]string, error) {
	out, err := h.Run(ctx, "nix-store", "--query", "--requisites", path)
	return strings.Fields(out), err
}

// Hashes returns the NarHash of each path in the host's database, in the order given.
func (h *Host) Hashes(ctx context.Context, paths ...string) ([]string, error) {
	out, err := h.Run(ctx, "nix-store", append([]string{"--query", "--hash"}, paths...)...)
	hashes := strings.Fields(out)
	if err == nil && len(hashes) != len(paths) {
		err = errors.New("nix-store --query --hash: " + out)
	}
	return hashes, err
}
