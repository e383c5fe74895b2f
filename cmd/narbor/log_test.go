package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"narbor/cmd/narbor/exit"
)

// A line for the journal begins with its priority, and has no time of its own; one that only inherited the journal's
// environment is for people.
func TestJournalIsToldPriorities(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]bool{"journal": true, "terminal": false} {
		log, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		st, err := log.Stat()
		if err != nil {
			t.Fatal(err)
		}
		stream := "1:1" // another's
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && want {
			stream = fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
		}
		socket := filepath.Join(dir, name+".sock")
		cmd := exec.Command(os.Args[0], "run", "--state-dir", t.TempDir(), "--socket", socket, "--port", "0", "--no-mdns", "--listen",
			"127.0.0.1:0", "--min-free", "0")
		cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1", "JOURNAL_STREAM="+stream)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "running", func() bool {
			_, _, err := narbor(t.Context(), "status", "--socket", socket)
			return exit.Code(err) != exit.NotRunning
		})
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for line := range strings.Lines(string(text)) {
			found = found || strings.Contains(line, "stopping")
			if got := strings.HasPrefix(line, "<6>INFO ") || strings.HasPrefix(line, "<4>WARN "); got != want {
				t.Errorf("to the %s: %q", name, line)
			}
		}
		if !found {
			t.Errorf("to the %s: %q, want that it is stopping", name, text)
		}
	}
}
