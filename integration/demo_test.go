package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"narbor/integration/lan"
)

// A demoRun is `narbor demo`, run by user 65534 without Nix, and with two network interfaces: the loopback and one that
// is not connected.
type demoRun struct {
	*testing.T
	temp string // where it makes its files, and nothing else does
	cmd  *exec.Cmd
}

func newDemo(t *testing.T, args ...string) *demoRun {
	t.Helper()
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	if os.Geteuid() != 0 {
		unable(t, "a network namespace needs root")
	}
	temp, err := os.MkdirTemp("", "demo") // t.TempDir is for its owner alone
	if err == nil {
		err = os.Chmod(temp, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	t.Cleanup(func() { // of a demo that has left some
		for _, pid := range (&demoRun{T: t, temp: temp}).pids() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), lan.AtMost(3*time.Minute))
	t.Cleanup(cancel)
	script := `ip link add card type veth peer cable && ip addr add 192.0.2.1/24 dev card && ip link set card up && ip link set cable up &&
		ip link set lo up && { [ ! -d /nix ] || mount -t tmpfs none /nix; } &&
		exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" demo "$@"`
	d := &demoRun{T: t, temp: temp}
	d.cmd = exec.CommandContext(ctx, "unshare", append([]string{"--net", "--mount", "sh", "-c", script, d.program()}, args...)...)
	d.cmd.Env = []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "TMPDIR=" + temp}
	return d
}

func (d *demoRun) program() string { return filepath.Join(programs.dir, "narbor") }

// inside runs a command in the demo's namespaces.
func (d *demoRun) inside(args ...string) ([]byte, error) {
	return exec.CommandContext(d.Context(), "nsenter", append([]string{"--net", "--mount", "--target", strconv.Itoa(d.cmd.Process.Pid)},
		args...)...).Output()
}

// leavesNothing fails if a process or a file of the demo is there.
func (d *demoRun) leavesNothing() {
	d.Helper()
	if files, err := os.ReadDir(d.temp); err != nil || len(files) > 0 {
		d.Errorf("it leaves %v behind: %v", files, err)
	}
	if left := d.pids(); len(left) > 0 {
		d.Errorf("it leaves processes behind: %d", left)
	}
}

// pids are the processes of the demo's narbors.
func (d *demoRun) pids() (pids []int) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		d.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		pid, perr := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && perr == nil && bytes.Contains(text, []byte(d.temp)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestDemoNeedsNothingButTheProgram(t *testing.T) {
	d := newDemo(t)
	out, err := d.cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("narbor demo = %v\n%s", err, out)
	}
	recording, err := os.ReadFile("demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`laptop is gone`, `attic is caught`, `new has all 24 paths, 120 MiB in .* s, and nothing came from the internet`,
		`desk +\d+ MiB`, `laptop +\d+ MiB  until it was killed`, `attic +\d+(\.\d)? (MiB|KiB)  what was changed was thrown away`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("narbor demo does not print %s:\n%s", want, out)
		}
		if !regexp.MustCompile(want).Match(recording) {
			t.Errorf("demo.svg does not show %s: record it again, as integration/record says", want)
		}
	}
	d.leavesNothing()
}

// begin starts the demo and returns once it has printed what marks, with the rest of the output to come.
func (d *demoRun) begin(marks string) (printed string, rest *bufio.Reader) {
	d.Helper()
	out, err := d.cmd.StdoutPipe()
	if err == nil {
		d.cmd.Stderr = d.cmd.Stdout
		err = d.cmd.Start()
	}
	if err != nil {
		d.Fatal(err)
	}
	rest = bufio.NewReader(out)
	for {
		line, err := rest.ReadString('\n')
		printed += line
		if strings.Contains(line, marks) {
			return printed, rest
		}
		if err != nil {
			d.Fatalf("narbor demo ends without %q: %v\n%s", marks, err, printed)
		}
	}
}

// With --keep the page stays up, and after Ctrl-C nothing is left.
func TestDemoIsKeptUntilCtrlC(t *testing.T) {
	d := newDemo(t, "--keep")
	printed, rest := d.begin("Ctrl-C")
	url := regexp.MustCompile(`page of new: +(http://\S+)`).FindStringSubmatch(printed)
	if url == nil {
		t.Fatalf("no address of a page in:\n%s", printed)
	}
	page, err := d.inside("curl", "-sf", url[1])
	if err != nil || !bytes.Contains(page, []byte("<title>narbor")) {
		t.Errorf("curl %s = %v\n%.500s", url[1], err, page)
	}
	states, err := filepath.Glob(filepath.Join(d.temp, "narbor-demo-*", "new"))
	if err != nil || len(states) != 1 {
		t.Fatalf("state directories: %q, %v", states, err)
	}
	text, err := d.inside(d.program(), "status", "--json", "--state-dir", states[0])
	var st struct {
		Interfaces []struct{ Used bool }
		Store      string
		Keys       []string
	}
	if jerr := json.Unmarshal(text, &st); jerr != nil {
		t.Fatalf("status = %v\n%s", err, text)
	}
	if len(st.Interfaces) < 2 || st.Interfaces[0].Used || st.Interfaces[1].Used || st.Store != "" || len(st.Keys) != 1 {
		t.Errorf("interfaces, store and keys are %v, want none used, none and one", st)
	}
	if log, err := os.ReadFile(filepath.Join(states[0], "log")); err != nil || !bytes.Contains(log, []byte("There is no Nix here")) {
		t.Errorf("without Nix, narbor run prints no next step: %v\n%s", err, log)
	}
	if len(d.pids()) != 3 {
		t.Errorf("these run on: %d, want three narbors: the fourth was killed", d.pids())
	}
	d.cmd.Process.Signal(os.Interrupt)
	text, err = io.ReadAll(rest)
	if werr := d.cmd.Wait(); err != nil || werr != nil {
		t.Errorf("after Ctrl-C: %v, %v\n%s", werr, err, text)
	}
	d.leavesNothing()
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	for marks, by := range map[string]os.Signal{"signed by the key": os.Interrupt, "laptop is gone": os.Interrupt,
		"have it": syscall.SIGHUP} {
		d := newDemo(t)
		_, rest := d.begin(marks)
		d.cmd.Process.Signal(by)
		text, err := io.ReadAll(rest)
		if werr := d.cmd.Wait(); err != nil || werr == nil || !bytes.Contains(text, []byte("the demo was interrupted")) {
			t.Errorf("after the signal %v at %q: %v, %v\n%s", by, marks, werr, err, text)
		}
		d.leavesNothing()
	}
}

// A reader such as head ends after the first line, and the demo runs on or ends, but deletes its files.
func TestDemoWithoutReaderLeavesNothing(t *testing.T) {
	d := newDemo(t)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stdout = out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	in.Close()
	d.cmd.Wait()
	d.leavesNothing()
}

// The kernel ends the narbors of a demo that is killed; its files cannot be deleted then.
func TestKilledDemoLeavesNoProcess(t *testing.T) {
	d := newDemo(t, "--keep")
	d.begin("Ctrl-C")
	d.cmd.Process.Signal(syscall.SIGKILL)
	d.cmd.Wait()
	for end := time.Now().Add(lan.AtMost(time.Minute)); len(d.pids()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("these run on: %d", d.pids())
		}
	}
}
