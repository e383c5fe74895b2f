package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
			t.Errorf("%v asks for somebody: %v, want %v", got[i], !asks, asks)
		}
	}
}
