package lan

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is the resource usage of a running process and its descendants.
type Usage struct {
	CPU     time.Duration // user and system time, with that of ended children
	RSS     int64         // current bytes of the largest process
	PeakRSS int64         // peak bytes since the start or the last ResetPeak, of the largest process that still runs
}

// Usage returns the resource usage of the process and its descendants so far.
func (p *Process) Usage() (Usage, error) {
	var sum Usage
	pids, err := p.tree()
	if err != nil {
		return sum, err
	}
	for _, pid := range pids {
		u, err := usage(pid)
		if err != nil && pid == p.Pid() {
			return sum, fmt.Errorf("%s: %w", p.name, err)
		}
		sum.CPU += u.CPU
		sum.RSS = max(sum.RSS, u.RSS)
		sum.PeakRSS = max(sum.PeakRSS, u.PeakRSS)
	}
	return sum, nil
}

// ResetPeak resets PeakRSS to the current RSS.
func (p *Process) ResetPeak() error {
	pids, err := p.tree()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
		if err != nil && pid == p.Pid() {
			return err
		}
	}
	return nil
}

// tree returns the process and its descendants.
func (p *Process) tree() ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, name := range names {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if f, err := stat(pid); err == nil {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
		}
	}
	pids := []int{p.Pid()}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

// stat returns the fields of /proc/PID/stat from the third on: the second, in parentheses, may hold blanks.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return nil, fmt.Errorf("strange /proc/%d/stat", pid)
	}
	return fields, nil
}

func usage(pid int) (Usage, error) {
	var u Usage
	fields, err := stat(pid)
	if err != nil {
		return u, err
	}
	const tick = time.Second / 100    // USER_HZ, the same on all Linux architectures that matter here
	for _, f := range fields[11:15] { // utime, stime, and those of children that were waited for
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(n) * tick
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "VmRSS":
			u.RSS = n << 10
		case "VmHWM":
			u.PeakRSS = n << 10
		}
	}
	return u, nil
}
