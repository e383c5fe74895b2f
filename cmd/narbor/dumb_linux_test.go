package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// A terminal without escape sequences gets none from any command, and the locale C gets ASCII only.
func TestDumbTerminalGetsPlainASCII(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	startedAt(t, socket)
	for _, args := range []string{"status", "status --json", "peers", "stats", "stats --by day", "keys", "share",
		"share explain " + strings.Repeat("a", 32),
		"why " + strings.Repeat("a", 32), "ping x", "doctor nix", "config show", "config nix", "config check absent.json", "version",
		"debug goroutines", "completion bash", "man", "setup --help", "unsetup --help", "run --help", "fetch", "bugreport"} {
		words := strings.Fields(args)
		switch words[0] {
		case "status", "peers", "stats", "keys", "share", "why", "ping", "doctor", "debug":
			words = append(words, "--socket", socket)
		}
		if words[0] == "bugreport" {
			words = append(words, "--to", filepath.Join(t.TempDir(), "report.tar.gz"), "--socket", socket)
		}
		cmd := exec.Command(os.Args[0], words...)
		cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1", "TERM=dumb", "LC_ALL=", "LC_CTYPE=", "LANG=C")
		term := onTerminal(t, 80, cmd)
		_ = cmd.Wait() // the exit code does not matter
		term.until("output of "+args, func() bool { return term.text() != "" })
		for _, r := range term.text() {
			if r == '\x1b' || r >= utf8.RuneSelf {
				t.Errorf("%s prints %q in\n%s", args, r, term.text())
				break
			}
		}
	}
}
