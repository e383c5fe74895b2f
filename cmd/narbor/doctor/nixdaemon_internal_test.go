package doctor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/exit"
	"narbor/store/storetest"
)

func TestStartOfThisProcess(t *testing.T) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getpid()))
	if err != nil {
		t.Skip(err)
	}
	if age := time.Since(startOf(string(stat), bootTime())); age < 0 || age > time.Hour {
		t.Errorf("this process is %v old", age)
	}
	if got := startOf("1 (a) b) S 0", bootTime()); !got.IsZero() {
		t.Errorf("nonsense began %v", got)
	}
	child := exec.Command("sleep", "60")
	before := time.Now()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(child.Process.Kill(), child.Wait()) }()
	if stat, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if got := startOf(string(stat), bootTime()); got.Before(before.Add(-startStep)) || got.After(time.Now()) {
		t.Errorf("a process that began after %v began %v", before, got)
	}
}

// The workers of an earlier nix-daemon go on after it was restarted; narbor's own is no reason to keep narbor.
func TestWorkersOfNixDaemonAreToldApart(t *testing.T) {
	proc := t.TempDir()
	files := map[string]string{}
	for pid, of := range map[string][2]string{"10": {"nix-daemon", "nix-daemon\x0020\x00"}, "11": {"nix-daemon", "nix-daemon\x0021\x00"},
		"12": {"nix-daemon", "nix-daemon\x00--daemon\x00"}, "13": {"nix-daemon", ""}, "14": {"nix-daemon", "nix-daemon\x0099\x00"},
		"15": {"nix-daemon", "nix-daemon\x00--stdio\x00"},
		"20": {"narbor", "narbor\x00run\x00"}, "21": {"nix-build", "nix-build\x00"}} {
		files[pid+"/comm"], files[pid+"/cmdline"] = of[0]+"\n", of[1]
		files[pid+"/stat"] = pid + " (x) S 20" + strings.Repeat(" 0", 17) + " 500 0"
	}
	for name, text := range files {
		file := filepath.Join(proc, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Unix(1005, 0)
	want := []daemonProcess{{10, began, true, false, 20, 20}, {11, began, true, false, 20, 21}, {12, began, false, false, 20, 0},
		{14, began, true, false, 20, 99}, {15, began, true, true, 20, 20}}
	got := daemonProcesses(proc, time.Unix(1000, 0))
	if !slices.Equal(got, want) {
		t.Fatalf("daemonProcesses = %v, want %v", got, want)
	}
	for i, asks := range []bool{false, true, false, false, false} {
		if got[i].asksFor(proc) != asks {
			t.Errorf("%v asks for its client: %v, want %v", got[i], !asks, asks)
		}
	}
}

// A daemon without arguments has workers without a client's pid: their parent tells that they are workers.
func TestWorkersOfDaemonWithoutArgumentsAreTold(t *testing.T) {
	proc := t.TempDir()
	for pid, parent := range map[int]int{10: 1, 11: 10, 12: 11, 13: 1} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		storetest.WriteText(t, filepath.Join(dir, "comm"), "nix-daemon\n")
		storetest.WriteText(t, filepath.Join(dir, "cmdline"), "nix-daemon\x00")
		storetest.WriteText(t, filepath.Join(dir, "stat"),
			fmt.Sprintf("%d (nix-daemon) S %d%s 500 0", pid, parent, strings.Repeat(" 0", 17)))
	}
	storetest.WriteText(t, filepath.Join(proc, "13/cmdline"), "/bin/sh\x00/usr/bin/nix-daemon\x00") // a script, which starts the program
	storetest.WriteText(t, filepath.Join(proc, "14/comm"), "nix-daemon\n")
	storetest.WriteText(t, filepath.Join(proc, "14/cmdline"), "nix-daemon\x00")
	storetest.WriteText(t, filepath.Join(proc, "14/stat"), "14 (nix-daemon) S 13"+strings.Repeat(" 0", 17)+" 500 0")
	workers := map[int]bool{}
	for _, p := range daemonProcesses(proc, time.Unix(1000, 0)) {
		workers[p.pid] = p.worker
		if p.worker && !p.asksFor(proc) {
			t.Errorf("process %d with an unknown client counts as one that never asks", p.pid)
		}
	}
	if want := map[int]bool{10: false, 11: true, 12: true, 13: false, 14: false}; !maps.Equal(workers, want) {
		t.Errorf("the processes that are workers: %v, want %v", workers, want)
	}
}

// A worker has read what its daemon has read: one that a fresh daemon started is fresh, and an orphan is not.
func TestDaemonThatRanBeforeTheEditStillAsks(t *testing.T) {
	proc := t.TempDir()
	storetest.WriteText(t, filepath.Join(proc, "90/comm"), "nix-build\n")
	storetest.WriteText(t, filepath.Join(proc, "91/comm"), "narbor\n")
	began := time.Unix(1000, 0)
	old := daemonProcess{pid: 10, started: began}
	fresh := daemonProcess{pid: 20, started: began.Add(startStep)}
	worker := func(pid, parent, client int) daemonProcess {
		return daemonProcess{pid: pid, started: began.Add(2 * startStep), worker: true, parent: parent, client: client}
	}
	stdio := worker(30, 90, 90)
	stdio.stdio = true
	jitter := old
	jitter.started = began.Add(time.Microsecond) // the time of the boot is computed anew
	before := daemons{old, worker(11, 10, 90)}
	for name, c := range map[string]struct {
		now  []daemonProcess
		asks string
	}{
		"nothing runs":                      {nil, ""},
		"the daemon goes on":                {[]daemonProcess{jitter}, "nix-daemon still asks"},
		"a fresh daemon":                    {[]daemonProcess{fresh}, ""},
		"a worker of the fresh daemon":      {[]daemonProcess{fresh, worker(21, 20, 90)}, ""},
		"a worker that ran before":          {[]daemonProcess{fresh, worker(11, 1, 90)}, "process 11"},
		"a worker started before restart":   {[]daemonProcess{fresh, worker(12, 1, 90)}, "process 12"},
		"a worker of the daemon for narbor": {[]daemonProcess{fresh, worker(12, 1, 91)}, ""},
		"a worker of its own":               {[]daemonProcess{stdio}, ""},
	} {
		err := before.stillAsk(proc, c.now)
		if (err == nil) != (c.asks == "") || err != nil && (!strings.Contains(err.Error(), c.asks) || !temporary(err)) {
			t.Errorf("%s: stillAsk = %v, want %q", name, err, c.asks)
		}
	}
}

func temporary(err error) bool {
	var coded exit.Error
	return errors.As(err, &coded) && coded.Code == exit.Temporary
}

// The kernel rounds the start of a process down: a restart right after a change must not look as if it came before it.
func TestRestartAtOnceAfterAChangeHasReadIt(t *testing.T) {
	began := time.Unix(1000, 0)
	for after, want := range map[time.Duration]bool{-time.Second: false, 0: false, startStep - time.Nanosecond: false, startStep: true,
		time.Second: true} {
		if got := changedAfter(began, began.Add(after)); got != want {
			t.Errorf("a change %v after the rounded start: unread is %t, want %t", after, got, want)
		}
	}
}
