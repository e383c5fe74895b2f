package integration_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// archOf is the name of this machine's architecture in packages other than Debian's.
func archOf() string { return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] }

// stillAsked adds a line to nix.conf that makes Nix ask narbor, and that unsetup does not take out.
const stillAsked = "cp /etc/nix/nix.conf /tmp/; " +
	"echo substituters = http://127.0.0.1:6272/x http://127.0.0.1:6272/ >>/etc/nix/nix.conf"

// rpm and pacman install the package, install it again, upgrade it while Nix fetches through it, refuse to remove it
// while Nix may ask it, and remove it; Nix never finds a closed port.
func TestRPMAndArchPackages(t *testing.T) {
	if os.Geteuid() != 0 {
		unable(t, "namespaces need root")
	}
	root := nextDebian(t)
	c, err := corpus.Open(t.Context(), corpus.Small(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	packages := t.TempDir()
	for _, version := range []string{"1.0", "1.1"} {
		buildPackages(t, packages, version, "rpm", "archlinux")
	}
	for _, p := range []struct{ name, file, install, remove, shows, kept string }{
		{"rpm", "/packages/narbor-1.0-1." + archOf() + ".rpm", "rpm -U --nodeps --force", "rpm -e narbor", "rpm -q narbor",
			"/etc/default/narbor.rpmsave"},
		{"pacman", "/packages/narbor-1.0-1-" + archOf() + ".pkg.tar.zst", "pacman -U --noconfirm", "pacman -R --noconfirm narbor",
			"pacman -Q narbor", "/etc/default/narbor.pacsave"},
	} {
		t.Run(p.name, func(t *testing.T) {
			s := bootDebian(t, root, packages, c.Cache)
			s.run("ln", "-sf", "bash", "/bin/sh") // as on Fedora and Arch; pacman's scripts need it
			install := append(strings.Fields(p.install), p.file)
			t.Log(s.run(install...))
			s.await("narbor.socket", "active")
			s.await("narbor.service", "active")
			if conf := s.run("cat", "/etc/nix/nix.conf"); !strings.Contains(conf, substituterLine) {
				t.Errorf("nix.conf is %q, want %q in it", conf, substituterLine)
			}
			t.Log(s.run(install...)) // the same again
			s.await("narbor.socket", "active")
			s.refreshTimer(t, "disabled")
			s.allowsVsock(t, false)
			s.upgrade(t, c.Top.String(), append(strings.Fields(p.install), strings.Replace(p.file, "1.0", "1.1", 1))...)
			if got := s.run(strings.Fields(p.shows)...); !strings.Contains(got, "1.1") {
				t.Errorf("after the upgrade there is %q", got)
			}
			s.allowsVsock(t, true)
			s.run("sh", "-c", stillAsked)
			if out, err := s.command(t.Context(), strings.Fields(p.remove)...).CombinedOutput(); err == nil {
				t.Errorf("the removal goes on while Nix asks narbor:\n%s", out)
			}
			s.await("narbor.service", "active")
			s.run(append([]string{"test", "-x"}, "/usr/bin/narbor")...)
			s.run("cp", "/tmp/nix.conf", "/etc/nix/nix.conf")
			t.Log(s.run(strings.Fields(p.remove)...))
			s.removed(t)
			if left := s.run("find", "/etc", "/usr", "-name", "*narbor*", "!", "-path", p.kept); left != "" {
				t.Errorf("after the removal there are still files:\n%s", left)
			}
			s.run("grep", "-q", "NARBOR_CACHE_DIR", p.kept) // settings that were changed are not lost
		})
	}
}

// rpmRootScript installs and removes the rpm in $2 in a root made of $1, in which nothing runs.
const rpmRootScript = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
cd /mnt
mkdir upper work root
mount -t overlay overlay -o lowerdir="$1",upperdir=upper,workdir=work root
cp root/usr/share/base-passwd/passwd.master root/etc/passwd
cp root/usr/share/base-passwd/group.master root/etc/group
want() { [ "$(systemctl --root=/mnt/root is-enabled $1 || true)" = $2 ] || { echo "$1 is not $2" >&2; exit 1; }; }
mv root/usr/bin/systemctl systemctl # in an image, systemd may come after narbor
rpm --root /mnt/root --nodeps -i "$2"
mv systemctl root/usr/bin/systemctl
systemctl --root=/mnt/root preset narbor.socket narbor.service narbor-refresh.timer
want narbor.socket enabled
want narbor.service enabled
want narbor-refresh.timer disabled
rpm --root /mnt/root --nodeps -e narbor
[ ! -e root/etc/systemd/system/sockets.target.wants/narbor.socket ]
rpm --root /mnt/root --nodeps -i "$2"
want narbor.socket enabled
want narbor.service enabled
want narbor-refresh.timer disabled
rpm --root /mnt/root --nodeps -e narbor
find root/etc root/usr -name '*narbor*' >left
[ ! -s left ] || { cat left; exit 1; }
`

// In a root where nothing runs, as when an image is built, the units are enabled; where systemd comes after narbor, by
// the preset.
func TestRPMInARootWhereNothingRuns(t *testing.T) {
	flakeNeeds(t, "rpm", "unshare", "systemctl")
	if os.Geteuid() != 0 {
		unable(t, "namespaces need root")
	}
	root, packages := nextDebian(t), t.TempDir()
	buildPackages(t, packages, "1.0", "rpm")
	command(t, "", "unshare", "--mount", "--net", "sh", "-c", rpmRootScript, "sh", root,
		filepath.Join(packages, "narbor-1.0-1."+archOf()+".rpm"))
}

// openrcScript makes a machine with OpenRC in its namespaces, from LOWER, which is replaced. In place of an init it
// ends as a shell that waits.
const openrcScript = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=LOWER,upperdir=upper,workdir=work root
cp root/usr/share/base-passwd/passwd.master root/etc/passwd
cp root/usr/share/base-passwd/group.master root/etc/group
mkdir -p root/packages root/old root/nix/store root/etc/nix root/etc/runlevels/sysinit root/etc/runlevels/boot root/etc/runlevels/default
mount --bind PACKAGES root/packages
printf '#!/sbin/openrc-run\nstart() { :; }\n' >root/etc/init.d/localmount # Debian's package lacks it
chmod 755 root/etc/init.d/localmount
for kind in auth account password session; do
  echo "$kind required pam_permit.so" >root/etc/pam.d/common-$kind # a script of Debian's would make these
done
mount -t proc proc root/proc
mount -t tmpfs -o mode=755 tmpfs root/dev
for d in null zero full random urandom tty; do
  touch root/dev/$d
  mount --bind /dev/$d root/dev/$d
done
ln -s /proc/self/fd root/dev/fd
ip link set lo up
cd root
pivot_root . old
umount -l /old
exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c 'while :; do sleep 1 & wait; done'`

// The apk's files and scripts are run on a machine with OpenRC as apk does it, which Debian does not have.
func TestAlpinePackageOnOpenRC(t *testing.T) {
	flakeNeeds(t, "dpkg-deb", "apt-get")
	if os.Geteuid() != 0 {
		unable(t, "namespaces need root")
	}
	root, err := lan.Root(t.Context(), "trixie", "openrc",
		"base-files", "base-passwd", "bash", "bsdutils", "coreutils", "curl", "dash",
		"findutils", "gawk", "grep", "gzip",
		"mount", "nix-bin", "openrc", "passwd", "procps", "runit", "sed", "sqlite3", "tar", "util-linux")
	if err != nil {
		unable(t, err.Error())
	}
	packages := t.TempDir()
	buildPackages(t, packages, "1.0", "apk")
	s := boot(t, "bash", strings.NewReplacer("LOWER", root, "PACKAGES", packages).Replace(openrcScript), func(*testing.T, string) {})
	s.run("sh", "-ec", "mkdir /tmp/apk; tar -xzf /packages/*.apk -C /tmp/apk 2>/dev/null; cp -a /tmp/apk/etc /tmp/apk/usr /")
	s.run("sh", "-ec", "openrc sysinit; openrc boot; openrc default")
	const serves = "curl -sf http://127.0.0.1:6272/nix-cache-info"
	t.Log(s.run("/tmp/apk/.post-install", "1.0-r0"))
	s.run("sh", "-c", serves)
	if conf := s.run("cat", "/etc/nix/nix.conf"); !strings.Contains(conf, substituterLine) {
		t.Errorf("nix.conf is %q, want %q in it", conf, substituterLine)
	}
	if got := s.run("rc-update", "show", "default"); !strings.Contains(got, "narbor") {
		t.Errorf("the runlevel has no narbor: %q", got)
	}
	pid := s.run("pgrep", "-x", "narbor")
	if got := s.run("sh", "-c", "ps -o user= -o supgrp= -p $(pgrep -x narbor)"); !strings.HasPrefix(got, "narbor") ||
		!strings.Contains(got, "nix-users") {
		t.Errorf("narbor runs as %q, want narbor with the group nix-users", got)
	}
	t.Log(s.run("/tmp/apk/.post-upgrade", "1.1-r0", "1.0-r0"))
	s.run("sh", "-c", "until "+serves+"; do sleep 0.1; done")
	if now := s.run("pgrep", "-x", "narbor"); now == pid {
		t.Error("the earlier version still runs after the upgrade")
	}
	s.run("sh", "-c", stillAsked)
	if out, err := s.command(t.Context(), "/tmp/apk/.pre-deinstall", "1.0-r0").CombinedOutput(); err == nil {
		t.Errorf("the removal goes on while Nix asks narbor:\n%s", out)
	}
	s.run("sh", "-c", serves)
	s.run("cp", "/tmp/nix.conf", "/etc/nix/nix.conf")
	t.Log(s.run("/tmp/apk/.pre-deinstall", "1.0-r0"))
	if conf := s.run("cat", "/etc/nix/nix.conf"); strings.Contains(conf, substituterLine) {
		t.Errorf("after the removal nix.conf is %q", conf)
	}
	if got := s.run("sh", "-c", "rc-update show default; pgrep -x narbor || true"); strings.TrimSpace(got) != "" {
		t.Errorf("after the removal: %q", got)
	}
	s.underRunit(t)
}

// underRunit runs runit's service file.
func (s systemd) underRunit(t *testing.T) {
	t.Helper()
	s.run("sh", "-ec", "mkdir -p /etc/sv/narbor /tmp/service; cp /usr/share/doc/narbor/runit/run /etc/sv/narbor/; "+
		"ln -s /etc/sv/narbor /tmp/service/; (runsvdir /tmp/service >/dev/null 2>&1 &)")
	s.run("sh", "-c", "until curl -sf http://127.0.0.1:6272/nix-cache-info; do sleep 0.1; done")
	if got := s.run("sh", "-c", "ps -o user= -o supgrp= -p $(pgrep -x narbor)"); !strings.HasPrefix(got, "narbor") ||
		!strings.Contains(got, "nix-users") {
		t.Errorf("by runit narbor runs as %q, want narbor with the group nix-users", got)
	}
	s.run("sv", "-w", "30", "stop", "/tmp/service/narbor")
}
