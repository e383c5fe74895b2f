package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// watching runs narbor status --watch on a terminal, in a shell that prints the terminal's settings before and after,
// and the exit code.
func watching(t *testing.T, socket string, env ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	const script = `trap : TERM INT HUP; stty -g; "$0" status --watch --every 200ms --socket "$1"; echo "exit $?"; stty -g; echo end`
	cmd := exec.Command("sh", "-c", script, os.Args[0], socket)
	cmd.Env = append(os.Environ(), append([]string{"NARBOR_TEST_IS_NARBOR=1", "TERM=xterm-256color", "LC_ALL=C.UTF-8", "NO_COLOR=",
		"TCELL_ALTSCREEN="}, env...)...)
	return onTerminal(t, 80, cmd), cmd
}

// Each way to end the view leaves the terminal as it was, and so do SIGTERM and SIGHUP.
func TestWatchRestoresTheTerminal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	startedAt(t, socket)
	for name, end := range map[string]func(*terminal, *exec.Cmd){
		"q":      func(term *terminal, _ *exec.Cmd) { term.send("q") },
		"Esc":    func(term *terminal, _ *exec.Cmd) { term.send("\x1b") },
		"Ctrl-C": func(term *terminal, _ *exec.Cmd) { term.send("\x03") },
		"a pasted text and q": func(term *terminal, _ *exec.Cmd) {
			term.send(strings.Repeat("qx", 1000))
			term.send("q")
		},
		"SIGTERM": func(term *terminal, cmd *exec.Cmd) {
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
				term.t.Error(err)
			}
		},
		"SIGHUP": func(term *terminal, cmd *exec.Cmd) {
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP); err != nil {
				term.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			term, cmd := watching(t, socket)
			// Words are looked for, because a space that is there already is not drawn.
			const drawn = "\x1b[?2026h" // begins each change of the picture
			term.until("the neighbours", func() bool { return strings.Contains(term.text(), "neighbours") })
			before := len(term.text())
			changes := strings.Count(term.text(), drawn)
			term.until("five changes", func() bool { return strings.Count(term.text(), drawn) >= changes+5 })
			if text := term.text()[before:]; strings.Contains(text, "neighbours") || strings.Contains(text, "\x1b[2J") {
				t.Errorf("a change draws more than what has changed: %q", text)
			}
			end(term, cmd)
			term.until("the end", func() bool { return strings.Contains(term.text(), "\nend") })
			text := term.text()
			settings, _, _ := strings.Cut(text, "\r\n")
			_, after, _ := strings.Cut(text, "\x1b[?1049l")                                                      // leaves the other screen
			restored := regexp.MustCompile("exit 0[qx]*\r\n[qx]*" + regexp.QuoteMeta(settings) + "[qx]*\r\nend") // or typed too late
			if !restored.MatchString(after) || !strings.Contains(text, "\x1b[?25h") {
				t.Errorf("the settings were %s, and in the end the terminal has %q", settings, text[before:])
			}
		})
	}
}

// A narbor that stops is waited for.
func TestWatchWaitsForNarbor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	term, _ := watching(t, socket, "NO_COLOR=1")
	term.until("the absence", func() bool { return strings.Contains(term.text(), "running") })
	startedAt(t, socket)
	term.until("the neighbours", func() bool { return strings.Contains(term.text(), "neighbours") })
	term.send("q")
	term.until("the end", func() bool { return strings.Contains(term.text(), "exit 0") })
	for _, colour := range []string{"\x1b[31m", "\x1b[33m"} {
		if strings.Contains(term.text(), colour) {
			t.Errorf("with NO_COLOR there is %q", colour)
		}
	}
}

// A dumb terminal, a terminal of unknown kind and a pipe get plain text again and again.
func TestWatchRepeatsPlainText(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	startedAt(t, socket)
	header := "narbor " + version + ", peer "
	for _, kind := range []string{"dumb", "", "narbor-knows-none"} {
		term, _ := watching(t, socket, "TERM="+kind)
		term.until("two looks", func() bool { return strings.Count(term.text(), header) >= 2 })
		term.send("\x03")
		term.until("the end", func() bool { return strings.Contains(term.text(), "exit 0") })
		if strings.Contains(term.text(), "\x1b[?1049h") || strings.Contains(term.text(), "\x1b[2J") {
			t.Errorf("TERM=%q gets %q", kind, term.text())
		}
	}
	cmd := exec.Command(os.Args[0], "status", "--watch", "--every", "200ms", "--socket", socket)
	cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1", "TERM=xterm", "CLICOLOR_FORCE=")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	looks := 0
	for lines := bufio.NewScanner(out); looks < 2 && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), header) {
			looks++
		}
		if strings.Contains(lines.Text(), "\x1b") {
			t.Errorf("a pipe gets %q", lines.Text())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || looks < 2 {
		t.Errorf("status --watch = %v after %d looks", err, looks)
	}
}
