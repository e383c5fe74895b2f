package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
)

// startStep is the precision of start times of processes: the kernel counts in steps of 10 ms, and rounds down.
const startStep = 10 * time.Millisecond

// A daemonProcess is a process of nix-daemon: the one that accepts connections, or a worker of its, which serves one
// and goes on when the first is restarted, with the configuration that it began with.
type daemonProcess struct {
	pid     int
	started time.Time // rounded down to [startStep]; zero is unknown
	worker  bool
	stdio   bool // a worker that no daemon has started
	parent  int  // the process that started it, or 1 once that has ended; 0 is unknown
	client  int  // the process that a worker serves, or its parent if that is not known; 0 is unknown
}

// Daemon returns the process that accepts the connections of Nix's users, and since when it runs; 0 is none.
func Daemon() (pid int, started time.Time) {
	for _, p := range daemonProcesses("/proc", bootTime()) {
		if !p.worker && (pid == 0 || p.pid < pid) {
			pid, started = p.pid, p.started
		}
	}
	return pid, started
}

// HasDaemon reports whether there is a nix-daemon, running or to be started by its socket. The Nix of a single user has
// none.
func HasDaemon() bool {
	pid, _ := Daemon()
	_, err := os.Stat(daemonSocket())
	return pid != 0 || err == nil
}

// RestartDaemon returns the command that makes nix-daemon read its configuration; "" without a daemon, or if the
// command is unknown.
func RestartDaemon(systemd bool) string {
	switch {
	case runtime.GOOS == "darwin":
		return "launchctl kickstart -k system/org.nixos.nix-daemon"
	case systemd && HasDaemon():
		return "systemctl restart nix-daemon"
	}
	return ""
}

func daemonSocket() string {
	return cmp.Or(os.Getenv("NIX_DAEMON_SOCKET_PATH"), "/nix/var/nix/daemon-socket/socket")
}

// daemonProcesses returns the processes of nix-daemon below a /proc, of a machine that was started at boot. A worker
// has its client's pid in place of the first argument, as far as that has room for it. Where the daemon was started
// without arguments, its workers have none either: they are recognized by their parent. One that talks to the process
// that started it, as narbor does where no daemon listens, is a worker too.
func daemonProcesses(proc string, boot time.Time) (found []daemonProcess) {
	names, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	if err != nil {
		return nil
	}
	commands := map[int]string{}
	for _, name := range names {
		dir := filepath.Dir(name)
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || commOf(proc, pid) != "nix-daemon" {
			continue
		}
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(args) == 0 {
			continue // it has ended, and its parent does not know yet
		}
		commands[pid] = string(args)
		p := daemonProcess{pid: pid}
		if words := strings.Split(string(args), "\x00"); len(words) > 1 {
			client, err := strconv.Atoi(words[1])
			p.stdio = words[1] == "--stdio"
			p.worker, p.client = err == nil || p.stdio, client
		}
		if stat, err := os.ReadFile(filepath.Join(dir, "stat")); err == nil {
			p.started, p.parent = startOf(string(stat), boot), parentOf(string(stat))
			if p.worker && p.client == 0 {
				p.client = p.parent
			}
		}
		found = append(found, p)
	}
	for i, p := range found {
		if !p.worker && commands[p.parent] == commands[p.pid] { // a copy of its parent
			found[i].worker, found[i].client = true, p.parent // its client is not known, and may ask
		}
	}
	return found
}

func commOf(proc string, pid int) string {
	comm, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "comm"))
	return strings.TrimSpace(string(comm))
}

// statFields returns the fields of /proc/PID/stat after the process name, which ends with the last parenthesis.
func statFields(stat string) []string {
	_, after, _ := cutLast(stat, ")")
	return strings.Fields(after)
}

// parentOf returns the ID of the parent of a process; 0 is unknown.
func parentOf(stat string) int {
	fields := statFields(stat)
	if len(fields) < 2 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[1])
	return pid
}

// startOf returns when a process began: /proc says after how many hundredths of a second since the boot.
func startOf(stat string, boot time.Time) time.Time {
	const field = 19
	fields := statFields(stat)
	if boot.IsZero() || len(fields) <= field {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[field], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return boot.Add(time.Duration(ticks) * startStep)
}

// asksFor reports whether a worker may query substituters for its client. narbor is a client, too, but asks only about
// valid paths, which needs no substituter.
func (p daemonProcess) asksFor(proc string) bool {
	client := commOf(proc, p.client)
	return client != "" && client != "narbor"
}

// changedSince returns the first of the files that has changed since a nix-daemon began, itself or its symbolic link;
// "" is none. A change within the same [startStep] counts as read: a restart right after an edit is more likely than an
// edit right after a restart.
func changedSince(started time.Time, files []string) string {
	if started.IsZero() {
		return ""
	}
	for _, file := range files {
		for _, look := range []func(string) (os.FileInfo, error){os.Lstat, os.Stat} {
			if st, err := look(file); err == nil && changedAfter(started, st.ModTime()) {
				return file
			}
		}
	}
	return ""
}

func changedAfter(started, changed time.Time) bool { return !changed.Before(started.Add(startStep)) }

// daemons are the processes of nix-daemon at one moment.
type daemons []daemonProcess

// RunningDaemons returns the processes of nix-daemon that run now.
func RunningDaemons() daemons { return daemonProcesses("/proc", bootTime()) }

// StillAsked fails if a process of nix-daemon may have read the configuration as it was: one that ran before the edit,
// or by the clock where before is nil. A worker has what its parent has read, whenever it began itself.
func StillAsked(before daemons) error { return before.stillAsk("/proc", RunningDaemons()) }

func (before daemons) stillAsk(proc string, now daemons) error {
	old := func(p daemonProcess) bool {
		if before == nil {
			return changedSince(p.started, nixconf.SystemFiles()) != ""
		}
		return slices.ContainsFunc(before, func(b daemonProcess) bool {
			return b.pid == p.pid &&
				b.started.Sub(p.started).Abs() < startStep
		})
	}
	var fresh []int // daemons that have read the configuration as it is now
	for _, p := range now {
		switch {
		case p.worker:
		case old(p):
			return exit.With(errors.New("nix-daemon still asks narbor, which goes on: restart nix-daemon, and then run `narbor "+
				"unsetup` again"), exit.Temporary)
		default:
			fresh = append(fresh, p.pid)
		}
	}
	for _, p := range now {
		stale := old(p) || !p.stdio && !slices.Contains(fresh, p.parent)
		if p.worker && stale && p.asksFor(proc) {
			err := fmt.Errorf("a build that began before this still asks narbor, which goes on: when process %d has ended, run "+
				"`narbor unsetup` again", p.pid)
			return exit.With(err, exit.Temporary)
		}
	}
	return nil
}
