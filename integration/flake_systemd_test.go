package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"narbor/integration/lan"
)

// systemdTimeout bounds the life of the systemd that a test starts. It needs a few seconds.
const systemdTimeout = 2 * time.Minute

// bootScript makes a machine of the namespaces it is in, with its root in $1: this machine's programs, a tmpfs for the
// rest, and no units but those in $2. It ends as systemd.
const bootScript = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cp -R "$2" "$1/units"
cd "$1"
mkdir -m 1777 tmp
mkdir -p dev etc old proc run sys usr var/lib
mkdir -m 1777 var/tmp
for d in bin sbin lib lib64; do
  if [ -L /$d ]; then cp -P /$d .; elif [ -d /$d ]; then mkdir $d; mount --bind /$d $d; fi
done
mount --bind /usr usr
mount --bind /etc etc
mount -t tmpfs -o mode=755 tmpfs usr/local/bin
cp "$3" usr/local/bin/narbor
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/class/misc # vsock would lead out of this computer
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
for d in null zero full random urandom tty; do
  touch dev/$d
  mount --bind /dev/$d dev/$d
done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ip link set lo up
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/units \
  /lib/systemd/systemd --unit=test.target --log-target=null`

// Under a real systemd, with all of the unit's restrictions, the service starts as a user of its own; and however it
// ends, the port is never closed.
func TestUnitsKeepThePortOpen(t *testing.T) {
	s := bootSystemd(t, "")
	s.await("narbor.service", "active")
	if got := s.run("curl", "-s", "http://127.0.0.1:6272/nix-cache-info"); !strings.Contains(got, "StoreDir: /nix/store\n") {
		t.Errorf("/nix-cache-info is %q", got)
	}
	var status struct{ HTTP []string }
	if err := json.Unmarshal([]byte(s.run("sh", "-c", "narbor status --json || test $? = 4")), &status); err != nil ||
		len(status.HTTP) != 2 {
		t.Errorf("narbor status --json: %v, %v, want two HTTP addresses", err, status)
	}
	if got := s.run("stat", "-c", "%a %U", "/var/lib/private/narbor"); strings.HasPrefix(got, "700 root") ||
		!strings.HasPrefix(got, "700 ") {
		t.Errorf("the state directory is %s, want 700 and a user of its own", got)
	}

	ctx, stop := context.WithCancel(t.Context())
	answers := make(chan [2]int, 1)
	go func() { answers <- s.ask(ctx, 10) }()
	for range 6 { // more often than systemd's start limit allows, if it has one
		s.run("systemctl", "kill", "--signal=KILL", "narbor.service")
		s.await("narbor.service", "active")
	}
	s.run("systemctl", "restart", "narbor.service")
	s.await("narbor.service", "active")
	stop()
	if got := <-answers; got[0] < 10 || got[1] > 0 {
		t.Errorf("%d answers and %d refused connections while narbor was killed and restarted, want answers only", got[0], got[1])
	}
}

// A narbor that no longer answers is started anew, and one that answers is left alone.
func TestWatchdogRestartsHangingNarbor(t *testing.T) {
	s := bootSystemd(t, "[Service]\nWatchdogSec=4\nWatchdogSignal=SIGKILL\n")
	s.await("narbor.service", "active")
	pid := func() string {
		return strings.TrimSpace(s.run("systemctl", "show", "--property=MainPID", "--value", "narbor.service"))
	}
	first := pid()
	time.Sleep(9 * time.Second) // the watchdog's own clock
	if now := pid(); now != first {
		t.Fatalf("process %s was replaced by %s, though it answered", first, now)
	}
	s.run("systemctl", "kill", "--signal=STOP", "narbor.service")
	for now := first; s.pause() && (now == first || now == "0"); {
		now = pid()
	}
	s.await("narbor.service", "active")
	if got := s.run("curl", "-s", "-m", "20", "http://127.0.0.1:6272/nix-cache-info"); !strings.Contains(got, "StoreDir: /nix/store\n") {
		t.Errorf("/nix-cache-info is %q", got)
	}
}

// A systemd is a machine in namespaces, run by systemd, with nothing but narbor on it.
type systemd struct {
	t   *testing.T
	pid int
}

// bootSystemd boots a machine, with changes to narbor.service if they are not "".
func bootSystemd(t *testing.T, dropIn string) systemd {
	return bootSystemdWith(t, bootScript, func(t *testing.T, units string) {
		writeUnits(t, units)
		if dropIn == "" {
			return
		}
		file := filepath.Join(units, "narbor.service.d", "test.conf")
		if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(dropIn), 0o644)); err != nil {
			t.Fatal(err)
		}
	})
}

// bootSystemdWith boots with another script and another function that writes the units.
func bootSystemdWith(t *testing.T, script string, writeUnits func(t *testing.T, dir string)) systemd {
	flakeNeeds(t, "systemctl")
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		unable(t, err.Error())
	}
	return boot(t, "systemd", script, writeUnits)
}

// boot runs a script that makes a machine of its namespaces and ends as the program init.
func boot(t *testing.T, init, script string, writeUnits func(t *testing.T, dir string)) systemd {
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	flakeNeeds(t, "unshare", "nsenter", "ip", "curl")
	if os.Geteuid() != 0 {
		unable(t, "namespaces need root")
	}
	root, units := t.TempDir(), t.TempDir()
	writeUnits(t, units)
	ctx, cancel := context.WithTimeout(context.Background(), lan.AtMost(systemdTimeout))
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child",
		"sh", "-c", script, "boot", root, units, filepath.Join(programs.dir, "narbor"))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel() // kills unshare, which takes the namespace with it
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("systemd: %s", &out)
		}
	})
	s := systemd{t: t}
	s.pid = s.firstChild(cmd.Process.Pid, init)
	return s
}

// writeUnits copies narbor's units, and gives them the targets that they and systemd refer to.
func writeUnits(t *testing.T, dir string) {
	if err := os.CopyFS(dir, os.DirFS("../cmd/narbor/units")); err != nil {
		t.Fatal(err)
	}
	writeTargets(t, dir, "Wants=narbor.socket narbor.service\n")
}

// writeTargets gives systemd the targets that it and narbor's units refer to; wants is what the first of them needs.
func writeTargets(t *testing.T, dir, wants string) {
	for _, name := range []string{"sysinit", "basic", "sockets", "shutdown", "multi-user", "test"} {
		text := "[Unit]\nDefaultDependencies=no\n"
		if name == "test" {
			text += wants
		}
		if err := os.WriteFile(filepath.Join(dir, name+".target"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// firstChild waits for the process that pid starts, and for it to become the program init.
func (s systemd) firstChild(pid int, init string) int {
	s.t.Helper()
	var child int
	for deadline := time.Now().Add(lan.AtMost(systemdTimeout / 4)); s.pause(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s has not started", init)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(text), &child); err != nil {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
		if err == nil && string(name) == init+"\n" {
			break
		}
	}
	return child
}

// pause waits a moment for a process that has no other way to tell; it is false, and the test ended, once that is late.
func (s systemd) pause() bool {
	select {
	case <-s.t.Context().Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

// command is one to be run on the machine.
func (s systemd) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--all", "--target", fmt.Sprint(s.pid), "env", "-i",
		"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, args...)...)
}

func (s systemd) run(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lan.AtMost(systemdTimeout/4))
	defer cancel()
	out, err := s.command(ctx, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// await waits until the unit is in that state.
func (s systemd) await(unit, state string) {
	s.t.Helper()
	var got []byte
	for deadline := time.Now().Add(lan.AtMost(systemdTimeout / 4)); time.Now().Before(deadline) && s.pause(); {
		got, _ = s.command(s.t.Context(), "systemctl", "is-active", unit).Output() // says the state by its exit code too
		if strings.TrimSpace(string(got)) == state {
			return
		}
	}
	status, _ := s.command(s.t.Context(), "systemctl", "status", "--no-pager", unit).CombinedOutput()
	s.t.Fatalf("%s is %s, want %s\n%s", unit, bytes.TrimSpace(got), state, status)
}

// ask asks for /nix-cache-info, on a new connection each time, until the context ends, and at least so often. It
// returns how often there was an answer, and how often the connection was refused. A connection that breaks is neither:
// Nix tries those again.
func (s systemd) ask(ctx context.Context, least int) (counts [2]int) {
	const refused = 7 // curl's exit code
	for n := 0; ctx.Err() == nil || n < 2*least && counts[0] < least; n++ {
		err := s.command(s.t.Context(), "curl", "-s", "-f", "-m", "10", "http://127.0.0.1:6272/nix-cache-info").Run()
		exit, failed := err.(*exec.ExitError)
		switch {
		case err == nil:
			counts[0]++
		case failed && exit.ExitCode() == refused:
			counts[1]++
		}
	}
	return counts
}
