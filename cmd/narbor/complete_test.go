package main

import (
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/exit"
)

// completions returns the completions of the last word of a line.
func completions(t *testing.T, shell string, words ...string) []string {
	t.Helper()
	out, _, err := narbor(t.Context(), append([]string{completeCommand, shell}, words...)...)
	if err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	return strings.Fields(out)
}

func TestCompletionCandidates(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"sta", "status stats"},
		{"doctor firewall fire", ""},
		{"run --log-level ", "debug info warn error"},
		{"run --share ", "signed none"},
		{"status --json --j", ""},
		{"status -- --j", ""},
		{"wait --for = s", "settled"},
		{"run --log-level = wa", "warn"},
		{"config ", "show check nix"},
		{"config check ", ":files"},
		{"run --config ", ":files"},
		{"share --socket s pau", "pause"},
		{"nothing --j", ""},
	} {
		if got := completions(t, "bash", strings.Split(c.line, " ")...); strings.Join(got, " ") != c.want {
			t.Errorf("%q is completed by %q, want %q", c.line, got, c.want)
		}
	}
}

func TestCandidatesNeedNoQuotes(t *testing.T) {
	for value, want := range map[string]string{"nas.example:6273": "nas.example:6273\n", "`id`": "", "$(id)": "", "a b": "", "a;b": "",
		"~x": ""} {
		var b strings.Builder
		if err := (candidate{value: value}).print(&b, "bash", "", 0); err != nil || b.String() != want {
			t.Errorf("%q is printed as %q, %v, want %q", value, &b, err, want)
		}
	}
}

// Peers are those of the narbor that the line names.
func TestCompletionKnowsPeers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	cacheDir := t.TempDir()
	_, key := makeClosure(t, cacheDir)
	holder := started(t, "--cache-dir", cacheDir, "--trusted-key", key)
	startedAt(t, socket, "--peer", peerArg(t, holder))
	wantCode(t, 0, "wait", "--for", "peers=1", "--timeout", "60s", "--socket", socket)
	if got := completions(t, "bash", "ping", "--socket", socket, holder.ID[:10]); !slices.Contains(got, holder.ID) {
		t.Errorf("peers are completed by %q, want %s", got, holder.ID)
	}
	if got := completions(t, "bash", "ping", "--socket", filepath.Join(t.TempDir(), "none"), ""); len(got) > 0 {
		t.Errorf("without a narbor peers are completed by %q", got)
	}
}

// No command does anything if it is given more arguments than it takes.
func TestActionDoesNotRunWithExtraArguments(t *testing.T) {
	for usage, args := range map[string][]string{"": {"x"}, "FILE": {"a", "b"}} {
		cmd := &cli.Command{Name: "do", ArgsUsage: usage, Action: func(*cli.Context) error {
			t.Errorf("a command whose arguments are %q runs with %q", usage, args)
			return nil
		}}
		setUp([]*cli.Command{cmd})
		app := &cli.App{Commands: []*cli.Command{cmd}, ExitErrHandler: func(*cli.Context, error) {}, Writer: io.Discard,
			ErrWriter: io.Discard}
		if err := app.Run(append([]string{"narbor", "do"}, args...)); exit.Code(err) != exit.Usage {
			t.Errorf("the exit code is %d, want %d: %v", exit.Code(err), exit.Usage, err)
		}
	}
}

func TestExtraArgumentsAreRefused(t *testing.T) {
	var walk func(path []string, commands []*cli.Command)
	walk = func(path []string, commands []*cli.Command) {
		for _, cmd := range commands {
			if cmd.Name == "help" || strings.Contains(cmd.ArgsUsage, "…") {
				continue
			}
			args := append(slices.Clone(path), cmd.Name)
			if cmd.ArgsUsage != "" {
				args = append(args, "bash")
			}
			wantCode(t, exit.Usage, append(args, "extra")...)
			wantCode(t, exit.Usage, append(args, "--", "--generate-bash-completion")...)
			walk(append(slices.Clone(path), cmd.Name), cmd.Subcommands)
		}
	}
	walk(nil, appFor(t).Commands)
}
