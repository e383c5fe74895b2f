package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shellTimeout bounds the wait for the output of a shell.
const shellTimeout = 2 * time.Minute

// A terminal is a program under a pseudo-terminal.
type terminal struct {
	t  *testing.T
	in *os.File

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

// onTerminal starts a command under a pseudo-terminal of that many columns.
func onTerminal(t *testing.T, columns uint16, cmd *exec.Cmd) *terminal {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0) // so that Close ends a Read
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ptmx.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = errors.Join(raw.Control(func(fd uintptr) {
		n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		err = errors.Join(err, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0),
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 60, Col: columns}))
	}), err)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, in: ptmx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buf)
			term.mu.Lock()
			term.out.Write(buf[:n])
			term.mu.Unlock()
			if err != nil { // the program and all that it has started have ended
				return
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		ptmx.Close()
		<-done
	})
	return term
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.out.String()
}

func (term *terminal) send(keys string) {
	term.t.Helper()
	if _, err := term.in.WriteString(keys); err != nil {
		term.t.Fatal(err)
	}
}

// until waits for a condition, and fails the test if it does not come true.
func (term *terminal) until(what string, is func() bool) {
	term.t.Helper()
	for end := time.Now().Add(atMost(shellTimeout)); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			term.t.Fatalf("%s: not within %v; the terminal has\n%q", what, shellTimeout, term.text())
		}
	}
}

// A shell runs with a program narbor in its PATH that writes down its arguments. It runs the real one for a completion,
// and nothing otherwise.
type shell struct {
	*terminal
	dir, log string
}

func startShell(t *testing.T, name, program string) shell {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	dir := t.TempDir()
	s := shell{dir: dir, log: filepath.Join(dir, "log")}
	write := func(name, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	if program == "" {
		program = fmt.Sprintf("[ \"$1\" != %s ] || NARBOR_TEST_IS_NARBOR=1 exec %q \"$@\"\n", completeCommand, os.Args[0])
	}
	write("bin/narbor", "#!/bin/sh\necho \"$@\" >>"+s.log+"\n"+program, 0o755)
	write("narbor.bash", bashCompletion, 0o644)
	write("zsh/_narbor", zshCompletion, 0o644)
	write("fish/completions/narbor.fish", fishCompletion, 0o644)
	write("bash.rc", "PS1='ready> '\nsource "+dir+"/narbor.bash\n", 0o644)
	write(".zshrc", "PS1='ready> '\nfpath=("+dir+"/zsh $fpath)\nautoload -U compinit\ncompinit -u -D\nunsetopt list_beep\n", 0o644)
	write("fish/generated_completions/none", "", 0o644) // without that directory, fish fills it in the background
	write("fish/config.fish", "function fish_prompt; printf 'ready> '; end\nfunction fish_greeting; end\n", 0o644)
	cmd := exec.Command(path, map[string][]string{"bash": {"--noprofile", "--rcfile", filepath.Join(dir, "bash.rc"), "-i"}, "zsh": {"-i"},
		"fish": {"-i"}}[name]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir, "ZDOTDIR=" + dir,
		"XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir,
		"TERM=xterm", "LANG=C.UTF-8", "INPUTRC=/dev/null", "NARBOR_SOCKET=" + filepath.Join(dir, "none.sock")}
	s.terminal = onTerminal(t, 200, cmd)
	s.until("the shell starts", func() bool { return strings.Contains(s.text(), "ready> ") })
	return s
}

// ran returns what narbor was run with, by line.
func (s shell) ran() []string {
	text, _ := os.ReadFile(s.log) // not there before the first time
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// completions counts how often narbor was asked for one.
func (s shell) completions() (n int) {
	for _, line := range s.ran() {
		if strings.HasPrefix(line, completeCommand+" ") {
			n++
		}
	}
	return n
}

// enter types a text with tabs in it, waits after each tab for the completion, and ends the line.
func (s shell) enter(text string) {
	s.t.Helper()
	for _, part := range strings.SplitAfter(text, "\t") {
		if typed, tab := strings.CutSuffix(part, "\t"); tab {
			s.tab(typed)
		} else {
			s.send(part)
		}
	}
	s.send("\r")
}

// Each shell completes commands, flags and values; for that it runs the completion and nothing else.
func TestShellsComplete(t *testing.T) {
	for _, name := range []string{"bash", "zsh", "fish"} {
		t.Run(name, func(t *testing.T) {
			s := startShell(t, name, "")
			lines := []struct{ typed, want string }{
				{"narbor unse\t", "unsetup"},
				{"narbor status --js\t", "status --json"},
				{"narbor doctor fire\t", "doctor firewall"},
				{"narbor doctor firewall mult\t", "doctor firewall multicast"},
				{"narbor run --log-level de\t", "run --log-level debug"},
				{"narbor run --log-level=de\t", "run --log-level=debug"},
				{"narbor wait --for set\t", "wait --for settled"},
				{"narbor wait --for pe\t3", "wait --for peers=3"},
				{"narbor share pau\t--fo\t8\t", "share pause --for 8h"},
				{"narbor stats --by na\t", "stats --by name"},
				{"narbor completion z\t", "completion zsh"},
			}
			for _, l := range lines {
				before := len(s.ran())
				s.enter(l.typed)
				s.until(l.typed, func() bool { r := s.ran(); return !strings.HasPrefix(r[len(r)-1], completeCommand) && len(r) > before })
				r := s.ran()
				if got := r[len(r)-1]; got != l.want {
					t.Errorf("%q became %q, want %q", l.typed, got, l.want)
				}
			}
			for _, line := range s.ran() {
				found := strings.HasPrefix(line, completeCommand+" "+name+" ")
				for _, l := range lines {
					found = found || line == l.want
				}
				if !found && line != "" {
					t.Errorf("for a completion narbor was run with %q", line)
				}
			}
		})
	}
}

// tab sends a tab, and waits until narbor is asked for a completion.
func (s shell) tab(typed string) {
	s.t.Helper()
	before, seen := s.completions(), len(s.text())
	s.send(typed + "\t")
	s.until(fmt.Sprintf("a completion of %q", typed), func() bool { return s.completions() > before })
	s.until(fmt.Sprintf("what is shown for %q", typed), func() bool { return len(s.text()) > seen+len(typed) })
}

// A tab runs narbor with the completion command, after -- and after a command that changes something, too.
func TestTabRunsNoCommand(t *testing.T) {
	for _, name := range []string{"bash", "zsh", "fish"} {
		t.Run(name, func(t *testing.T) {
			s := startShell(t, name, "")
			for i, typed := range []string{"narbor status --", "narbor status -- ", "narbor share resume ", "narbor share resume -- --",
				"narbor "} {
				s.tab(typed)
				s.send("\r")
				s.until(typed, func() bool { return len(s.ran())-s.completions() > i })
			}
			if others := len(s.ran()) - s.completions(); others != 5 {
				t.Errorf("narbor was run %d times by 5 lines that were entered: %q", others, s.ran())
			}
		})
	}
}

// Commands in the program's output are not run, nor those in typed text. (zsh itself runs typed ones at a tab.)
func TestCompletionRunsNothingOfItsOutput(t *testing.T) {
	for _, name := range []string{"bash", "zsh", "fish"} {
		for i, typed := range []string{"narbor x", "narbor ", "narbor --`touch hit9`", "narbor '$(touch hit9)'"} {
			if name == "zsh" && i == 2 {
				continue
			}
			t.Run(fmt.Sprintf("%s%d", name, i), func(t *testing.T) {
				s := startShell(t, name, "cat <<'END'\nx`touch hit1`\nx$(touch hit2)\nx`touch hit3`:`touch hit4`$(touch hit5)\nx(touch "+
					"hit6)\t(touch hit7)\nx${(e):-`touch hit8`}\nEND\n")
				s.tab(typed)
				if name != "fish" { // where the next tab chooses among the shown completions
					s.tab("") // the answer to the first has been used by then
				} else if i < 2 {
					s.until("what narbor said", func() bool { return strings.Contains(s.text(), "hit8") })
				}
				if hits, _ := filepath.Glob(filepath.Join(s.dir, "hit*")); len(hits) > 0 {
					t.Errorf("a completion of %q ran %q", typed, hits)
				}
			})
		}
	}
}

// zsh and fish show what each candidate is.
func TestCompletionsHaveDescriptions(t *testing.T) {
	for _, name := range []string{"zsh", "fish"} {
		for typed, want := range map[string]string{"narbor doctor ": "neighbours may reach this machine",
			"narbor wait --for ": "narbor answers"} {
			t.Run(name+" "+typed, func(t *testing.T) {
				s := startShell(t, name, "")
				s.tab(typed)
				s.until(want, func() bool { return strings.Contains(s.text(), want) })
			})
		}
	}
}
