package integration_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// debianScript makes a Debian machine in its namespaces: it has the files of LOWER read-only, its own /nix, /etc and
// state, and as units only those of packages and those in $2. PACKAGES and CACHE are the directories that the machine
// sees as /packages and /cache. LOWER, PACKAGES and CACHE are replaced. The script ends as systemd.
const debianScript = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=LOWER,upperdir=upper,workdir=work root
cp -R "$2" root/units
mkdir -p root/packages root/cache root/old
mount --bind "PACKAGES" root/packages
mount --bind -o ro "CACHE" root/cache
for d in run tmp var/tmp nix; do
  mkdir -p root/$d
  mount -t tmpfs -o mode=1777 tmpfs root/$d
done
mkdir -p root/var/lib/private
mount -t tmpfs -o mode=700 tmpfs root/var/lib/private
chmod 755 root/run root/nix
rm -f root/usr/sbin/policy-rc.d
rm -rf root/var/lib/narbor root/etc/systemd/system root/etc/resolv.conf
mkdir -p root/etc/systemd/system root/run/lock
if [ -e root/etc/passwd ]; then
  rm -rf root/etc/nix
else # packages were unpacked without their scripts
  cp root/usr/share/base-passwd/passwd.master root/etc/passwd
  cp root/usr/share/base-passwd/group.master root/etc/group
  touch root/var/lib/dpkg/status root/etc/machine-id
fi
mount -t proc proc root/proc
mount -t sysfs -o ro sysfs root/sys
mount -t tmpfs tmpfs root/sys/class/misc # vsock would lead out of this computer
mount -t cgroup2 cgroup2 root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs root/dev
mkdir root/dev/shm root/dev/pts
mount -t devpts -o newinstance,ptmxmode=666 devpts root/dev/pts
for d in null zero full random urandom tty; do
  touch root/dev/$d
  mount --bind /dev/$d root/dev/$d
done
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
ip link set lo up
cd root
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  SYSTEMD_UNIT_PATH=/units:/etc/systemd/system:/lib/systemd/system \
  /lib/systemd/systemd --unit=test.target --log-target=null`

// debianRoot has what the tests of packages need besides narbor: systemd, three package managers, and Nix.
var debianRoot = []string{"base-files", "base-passwd", "bash", "coreutils", "curl", "dash", "diffutils", "dpkg",
	"findutils", "gawk", "grep", "gzip", "hostname", "init-system-helpers", "iproute2", "libc-bin", "mount",
	"nix-setup-systemd", "pacman-package-manager", "passwd", "procps", "rpm", "sed", "sqlite3", "systemd", "tar",
	"util-linux", "xz-utils"}

// nextDebian returns an unpacked root of the Debian that follows the oldest one of the tests.
func nextDebian(t *testing.T) string {
	t.Helper()
	flakeNeeds(t, "dpkg-deb", "apt-get")
	root, err := lan.Root(t.Context(), "trixie", "packages", debianRoot...)
	if err != nil {
		unable(t, err.Error())
	}
	return root
}

// bootDebian boots a Debian machine with Nix, which trusts the corpus's key. Its root is that of this machine for "/".
func bootDebian(t *testing.T, lower, packages, cache string) systemd {
	t.Helper()
	script := strings.NewReplacer("LOWER", lower, "PACKAGES", packages, "CACHE", cache).Replace(debianScript)
	s := bootSystemdWith(t, script, func(t *testing.T, units string) { writeTargets(t, units, "") })
	s.run("sh", "-c", "until test -S /run/systemd/private; do sleep 0.05; done") // systemctl talks to it
	s.run("sh", "-c", "mkdir -p /nix/var/nix/daemon-socket /nix/store && groupadd --force --system nixbld && chgrp nixbld /nix/store && "+
		"chmod 1775 /nix/store")
	if lower == "/" {
		command(t, packages, "apt-get", "-qq", "download", "nix-setup-systemd")
		s.run("sh", "-c", "dpkg --no-triggers --force-unsafe-io --force-depends -i /packages/nix-setup-systemd_*.deb")
	} else { // as that package's script does it
		s.run("sh", "-ec", "groupadd --force --system nix-users; for n in 1 2; do useradd --system --gid nixbld --groups nixbld "+
			"--no-user-group nixbld$n; done; systemd-tmpfiles --create nix-daemon.conf; systemctl enable --now nix-daemon.socket")
	}
	s.run("sh", "-c", "echo extra-trusted-public-keys = "+corpus.PublicKey()+" >>/etc/nix/nix.conf; systemctl restart nix-daemon.service")
	return s
}

// substituterLine is narbor's in nix.conf.
const substituterLine = "extra-substituters = http://127.0.0.1:6272"

// The package is installed beside Debian's Nix, upgraded while Nix fetches through it, and removed; Nix never finds a
// closed port. That is tried on this machine's Debian, and on the next.
func TestDebianPackage(t *testing.T) {
	flakeNeeds(t, "dpkg-deb", "apt-get", "nix-store")
	if os.Geteuid() != 0 {
		unable(t, "namespaces need root")
	}
	c, err := corpus.Open(t.Context(), corpus.Small(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	packages := t.TempDir()
	for _, version := range []string{"1.0", "1.1"} {
		buildPackages(t, packages, version, "deb")
	}
	t.Run("here", func(t *testing.T) {
		lifeOfDeb(t, bootDebian(t, "/", packages, c.Cache), c.Top.String(), systemd.besideThePackage)
	})
	t.Run("next", func(t *testing.T) {
		lifeOfDeb(t, bootDebian(t, nextDebian(t), packages, c.Cache), c.Top.String(), func(systemd, *testing.T) {})
	})
}

// lifeOfDeb installs the package on a machine, upgrades it while Nix fetches the path through it, and removes and
// purges it.
func lifeOfDeb(t *testing.T, s systemd, path string, installed func(systemd, *testing.T)) {
	t.Log(s.run("dpkg", "--no-triggers", "--force-unsafe-io", "-i", "/packages/narbor_1.0_amd64.deb"))
	s.await("narbor.socket", "active")
	s.await("narbor.service", "active")
	if conf := s.run("cat", "/etc/nix/nix.conf"); !strings.Contains(conf, substituterLine) {
		t.Errorf("nix.conf is %q, want %q in it", conf, substituterLine)
	}
	for _, file := range []string{"/usr/share/man/man8/narbor.8.gz", "/usr/share/bash-completion/completions/narbor",
		"/usr/share/zsh/vendor-completions/_narbor",
		"/usr/share/fish/vendor_completions.d/narbor.fish", "/lib/systemd/system/narbor.service", "/etc/default/narbor"} {
		s.run("test", "-s", file)
	}
	s.allowsVsock(t, false)
	installed(s, t)
	refresh := s.refreshTimer(t, "disabled")
	s.run("systemctl", "enable", "--now", refresh)
	s.upgrade(t, path, "dpkg", "--no-triggers", "--force-unsafe-io", "-i", "/packages/narbor_1.1_amd64.deb")
	if got := s.run("dpkg-query", "--show", "narbor"); !strings.Contains(got, "1.1") {
		t.Errorf("after the upgrade there is %q", got)
	}
	s.refreshTimer(t, "enabled")
	s.allowsVsock(t, true)
	s.setupRestarts(t)
	s.run("dpkg", "--remove", "narbor")
	s.removed(t)
	s.await(refresh, "inactive")
	s.run("dpkg", "--purge", "narbor")
	if out, err := s.command(t.Context(), "ls", "/var/lib/private/narbor").CombinedOutput(); err == nil {
		t.Errorf("after the purge there is still state: %q", out)
	}
	if left := s.run("find", "/etc", "/usr", "/var", "-name", "narbor*"); left != "" {
		t.Errorf("after the purge there are still files:\n%s", left)
	}
}

// allowsVsock looks whether the service may use vsock, and has the drop-in for that.
func (s systemd) allowsVsock(t *testing.T, want bool) {
	t.Helper()
	families := s.run("systemctl", "show", "--property=RestrictAddressFamilies", "narbor.service")
	_, err := s.command(t.Context(), "test", "-e", vsockConf).CombinedOutput()
	if strings.Contains(families, "AF_VSOCK") != want || (err == nil) != want || !strings.Contains(families, "AF_INET6") {
		t.Errorf("the service has %sand %s is there: %v; may it use vsock? want %v", families, vsockConf, err == nil, want)
	}
}

// setupRestarts takes the drop-in away and lets setup install it. A service that runs begins to use vsock by a restart
// only.
func (s systemd) setupRestarts(t *testing.T) {
	t.Helper()
	main := func() string { return s.run("systemctl", "show", "--property=MainPID", "narbor.service") }
	s.run("sh", "-c", "rm "+vsockConf+" && systemctl daemon-reload")
	before := main()
	s.run("narbor", "setup", "--no-nix")
	s.await("narbor.service", "active")
	s.allowsVsock(t, true)
	between := main()
	if between == before {
		t.Errorf("after setup has allowed vsock the service runs as before, with %s", before)
	}
	s.run("narbor", "setup", "--no-nix")
	if after := main(); after != between {
		t.Errorf("setup has restarted the service although nothing has changed: %sand %s", between, after)
	}
}

// vsockConf is the drop-in that lets the service use vsock.
const vsockConf = "/etc/systemd/system/narbor.service.d/vsock.conf"

// giveVsock lets a machine look as if its kernel had vsock. narbor does not use it: it would lead out of this computer.
const giveVsock = "mkdir -p /sys/class/misc/vsock /etc/default; echo NARBOR_NO_VSOCK=true >>/etc/default/narbor; "

// upgrade runs a command that upgrades narbor, while Nix fetches a path from narbor's cache directory again and again.
// The machine has vsock from then on.
func (s systemd) upgrade(t *testing.T, path string, args ...string) {
	t.Helper()
	s.run("sh", "-c", giveVsock+"(echo NARBOR_CACHE_DIR=/cache; echo NARBOR_SHARE_KEY="+corpus.KeyName+
		") >>/etc/default/narbor; systemctl restart narbor.service")
	before := s.pidOf("narbor.service")
	ctx, stop := context.WithCancel(t.Context())
	answers, builds := make(chan [2]int, 1), make(chan [2]int, 1)
	go func() { answers <- s.ask(ctx, 3) }()
	go func() { builds <- s.realise(ctx, path) }()
	time.Sleep(time.Second) // a build is under way
	t.Log(s.run(args...))
	s.await("narbor.service", "active")
	time.Sleep(time.Second)
	stop()
	if got := <-answers; got[0] < 3 || got[1] > 0 {
		t.Errorf("%d answers and %d refused connections during the upgrade, want answers only", got[0], got[1])
	}
	if got := <-builds; got[0] == 0 || got[1] > 0 {
		t.Errorf("%d builds went well and %d failed during the upgrade", got[0], got[1])
	}
	if after := s.pidOf("narbor.service"); after == before {
		t.Error("the earlier version still runs after the upgrade")
	}
	if conf := s.run("cat", "/etc/nix/nix.conf"); strings.Count(conf, substituterLine) != 1 {
		t.Errorf("after the upgrade nix.conf is %q, want the line once", conf)
	}
	if got := s.run("systemctl", "is-enabled", "narbor.socket", "narbor.service"); got != "enabled\nenabled\n" {
		t.Errorf("after the upgrade the units are %q", got)
	}
}

// removed looks at a machine from which a package has removed narbor.
func (s systemd) removed(t *testing.T) {
	t.Helper()
	if conf := s.run("cat", "/etc/nix/nix.conf"); strings.Contains(conf, substituterLine) {
		t.Errorf("after the removal nix.conf is %q", conf)
	}
	s.await("narbor.socket", "inactive")
	if out, err := s.command(t.Context(), "nix-store", "--store", "daemon", "--realise", absentPath).CombinedOutput(); err == nil ||
		strings.Contains(string(out), "6272") {
		t.Errorf("after the removal Nix says %q, %v", out, err)
	}
}

// pidOf is the main process of a unit.
func (s systemd) pidOf(unit string) string {
	s.t.Helper()
	return strings.TrimSpace(s.run("systemctl", "show", "--property=MainPID", "--value", unit))
}

// refreshTimer returns the name of the timer for `narbor refresh`, which must be enabled or disabled as stated.
func (s systemd) refreshTimer(t *testing.T, want string) string {
	t.Helper()
	const name = "narbor-refresh.timer"
	if got, _ := s.command(t.Context(), "systemctl", "is-enabled", name).CombinedOutput(); strings.TrimSpace(string(got)) != want {
		t.Errorf("%s is %s, want %s", name, got, want)
	}
	if got := s.run("systemctl", "show", "--property=TimeoutStartUSec", "narbor-refresh.service"); !strings.Contains(got, "=1min") {
		t.Errorf("narbor-refresh.service has the limit %s, want a minute", got)
	}
	return name
}

// besideThePackage lets doctor, setup and unsetup look at a machine on which a package has installed narbor.
func (s systemd) besideThePackage(t *testing.T) {
	t.Helper()
	says := func(want, unwanted string, args ...string) {
		t.Helper()
		out, _ := s.command(t.Context(), append([]string{"narbor"}, args...)...).CombinedOutput() // doctor fails if it finds something
		if !strings.Contains(string(out), want) || unwanted != "" && strings.Contains(string(out), unwanted) {
			t.Errorf("narbor %s does not say %q, or says %q:\n%s", strings.Join(args, " "), want, unwanted, out)
		}
	}
	s.run("systemctl", "stop", "narbor.socket", "narbor.service")
	says("systemctl enable --now narbor.socket narbor.service", "setup", "doctor", "running", "--json")
	s.run("systemctl", "start", "narbor.socket")
	says(`"severity"`, "is taken by", "doctor", "ports", "--json")
	s.run("sh", "-c", "echo NARBOR_UPLOAD_RATE=fast >>/etc/default/narbor; systemctl restart narbor.service")
	says("--upload-rate", "control socket", "doctor", "running", "--json")
	s.run("sh", "-c", "sed -i '$d' /etc/default/narbor; systemctl restart narbor.service")

	says("belongs to a package", "copied to", "setup")
	says("belongs to a package and goes on", "removed", "unsetup", "--no-restart", "--no-nix")
	if out, err := s.command(t.Context(), "ls", "/usr/local/bin/narbor",
		"/etc/systemd/system/narbor.service").CombinedOutput(); err == nil {
		t.Errorf("setup installed over the package: %s", out)
	}
	s.await("narbor.service", "active")

	// nix.conf as a tool that keeps it in the store makes it.
	s.run("sh", "-ec", "cp /etc/nix/nix.conf /tmp/mine; sed /6272/d /tmp/mine >/tmp/nix.conf.orig; mkdir /etc/nix/static; "+
		"sp=$(nix-store --store daemon --add /tmp/nix.conf.orig);"+
		"ln -s $sp /etc/nix/static/nix.conf; ln -sf static/nix.conf /etc/nix/nix.conf; echo $sp >/tmp/sp")
	says("/etc/nix/nix.conf is made by the tool that linked it to /nix/store/", "that helped", "doctor", "--fix", "--yes", "--json", "nix")
	s.run("sh", "-ec", "nix-store --store daemon --verify-path $(cat /tmp/sp); test -L /etc/nix/nix.conf; test -L "+
		"/etc/nix/static/nix.conf; rm -r /etc/nix/nix.conf /etc/nix/static; cp /tmp/mine /etc/nix/nix.conf")
}

// absentPath is a store path without a holder.
const absentPath = "/nix/store/00000000000000000000000000000000-absent"

// realise lets Nix fetch a path, and forget it, again and again until the context ends. It returns how often that went
// well, and how often not.
func (s systemd) realise(ctx context.Context, path string) (counts [2]int) {
	for ctx.Err() == nil {
		out, err := s.command(s.t.Context(), "sh", "-ec", "nix-store --store daemon --realise $1 >/dev/null; nix-store --store daemon "+
			"--gc >/dev/null 2>&1", "sh", path).CombinedOutput()
		if err != nil {
			s.t.Logf("realise: %v\n%s", err, out)
			counts[1]++
			return counts
		}
		counts[0]++
	}
	return counts
}

// command runs a program of this machine, in a directory, or in this one's.
func command(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	if strings.Contains(name, "/") {
		abs, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		name = abs
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, os.Environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
