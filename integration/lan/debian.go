package lan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// A Nix is a version of Nix that hosts can have.
type Nix struct {
	Version string // as "nix --version" prints it, such as 2.26.3
	System  string // for [HostConfig.System]
}

// nixSuites are the Debian suites, besides this computer's, from which the tests take Nix.
var nixSuites = []string{"trixie", "forky"}

// systemPackages are the packages besides Nix that tests need on a host; their dependencies are unpacked too.
var systemPackages = []string{"base-files", "bash", "coreutils", "curl", "dash", "findutils", "gawk", "grep", "hostname", "iproute2",
	"libc-bin", "nftables", "nix-bin", "procps", "sed", "sqlite3", "tar", "util-linux", "xz-utils"}

// Nixes returns this computer's Nix and those of newer Debian suites, oldest first. The packages are downloaded the
// first time and kept below the user's cache directory; that takes about half a minute for each suite.
func Nixes(ctx context.Context) ([]Nix, error) {
	out, err := exec.CommandContext(ctx, "nix", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("nix --version: %w", err)
	}
	fields := strings.Fields(string(out)) // nix (Nix) 2.8.0
	if len(fields) == 0 {
		return nil, errors.New("nix --version prints nothing")
	}
	nixes := []Nix{{Version: fields[len(fields)-1]}}
	for _, suite := range nixSuites {
		n, err := unpackSystem(ctx, suite)
		if err != nil {
			return nil, err
		}
		nixes = append(nixes, n)
	}
	return nixes, nil
}

// nixPackage matches Nix's package, with its version, in the output of apt-get --print-uris.
var nixPackage = regexp.MustCompile(`\bnix-bin_([0-9.]+)`)

// unpackSystem returns the Nix of a Debian suite, with the system packages.
func unpackSystem(ctx context.Context, suite string) (Nix, error) {
	dir, uris, err := unpackSuite(ctx, suite, "system", systemPackages)
	if err != nil {
		return Nix{}, err
	}
	version := nixPackage.FindStringSubmatch(uris)
	if version == nil {
		return Nix{}, fmt.Errorf("no nix-bin in Debian %s", suite)
	}
	return Nix{Version: strings.TrimSuffix(version[1], "."), System: dir}, nil
}

// Root returns a directory with packages of a Debian suite and all of their dependencies. It unpacks them without
// running their scripts. The directory is kept below the user's cache directory under the name; other versions in the
// suite get a new one.
func Root(ctx context.Context, suite, name string, packages ...string) (string, error) {
	dir, _, err := unpackSuite(ctx, suite, name, packages)
	return dir, err
}

// unpackSuite is [Root]. It also returns the addresses of the packages, which have their versions.
func unpackSuite(ctx context.Context, suite, name string, packages []string) (dir, uris string, err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	base = filepath.Join(base, "narbor-unpacked", suite)
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", "", err
	}
	lock, err := lockFile(filepath.Join(base, "lock")) // against other test processes
	if err != nil {
		return "", "", err
	}
	defer lock.Close()
	apt, err := newApt(ctx, base, suite)
	if err != nil {
		return "", "", err
	}
	if err := apt.update(ctx); err != nil {
		return "", "", err
	}
	uris, err = apt.run(ctx, append([]string{"install", "--print-uris", "-qq", "-y"}, packages...)...)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256([]byte(uris))
	dir = filepath.Join(base, name+"-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, uris, nil
	}
	return dir, uris, apt.unpack(ctx, dir, filepath.Join(base, name+"-*"), packages)
}

// unpack downloads packages, unpacks them into dir, and removes the directories of earlier versions.
func (a apt) unpack(ctx context.Context, dir, earlier string, packages []string) error {
	if _, err := a.run(ctx, append([]string{"install", "--download-only", "-qq", "-y"}, packages...)...); err != nil {
		return err
	}
	old, err := filepath.Glob(earlier)
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return err
		}
	}
	// base-files comes first: it has the symbolic links from /bin and /lib to /usr.
	const script = `mkdir out && dpkg-deb -x archives/base-files_*.deb out
		for p in archives/*.deb; do dpkg-deb -x "$p" out; done
		ln -sf gawk out/usr/bin/awk; mkdir -p out/nix; rm -rf archives/*.deb`
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.Dir = filepath.Join(a.base, "cache")
	if err := os.RemoveAll(filepath.Join(cmd.Dir, "out")); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack: %w\n%s", err, out)
	}
	return os.Rename(filepath.Join(cmd.Dir, "out"), dir)
}

// An apt is a configuration of apt-get with one suite and no installed packages.
type apt struct{ base, config string }

func newApt(ctx context.Context, base, suite string) (apt, error) {
	a := apt{base, filepath.Join(base, "apt.conf")}
	mirror, err := debianMirror(ctx)
	if err != nil {
		return a, err
	}
	for _, dir := range []string{"etc/preferences.d", "etc/apt.conf.d", "lists/partial", "cache/archives/partial", "var"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			return a, err
		}
	}
	in := func(dir string) string { return filepath.Join(base, dir) }
	// The files are signed. For tests, an outdated mirror is as good as a current one.
	conf := fmt.Sprintf(`Dir::State %q; Dir::State::lists %q; Dir::State::status %q;
Dir::Cache %q; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; Dir::Etc %q;
Dir::Etc::sourcelist %q; Dir::Etc::sourceparts "-"; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false"; Acquire::Languages "none";
`, in("var"), in("lists"), in("status"), in("cache"), in("etc"), in("etc/sources.list"))
	for name, text := range map[string]string{
		"apt.conf":         conf,
		"status":           "",
		"etc/sources.list": "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + mirror + " " + suite + " main\n",
	} {
		if err := os.WriteFile(filepath.Join(base, name), []byte(text), 0o644); err != nil {
			return a, err
		}
	}
	return a, nil
}

// debianMirror returns where this computer's apt gets Debian's packages.
func debianMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for _, uri := range strings.Fields(string(out)) {
		if strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			return uri, nil
		}
	}
	return "", errors.New("apt has no Debian mirror: it needs a source with an address that ends with /debian")
}

// update downloads the lists of packages, at most once a day.
func (a apt) update(ctx context.Context) error {
	stamp := filepath.Join(a.base, "updated")
	if st, err := os.Stat(stamp); err == nil && time.Since(st.ModTime()) < 24*time.Hour {
		return nil
	}
	if _, err := a.run(ctx, "update", "-qq"); err != nil {
		return err
	}
	return os.WriteFile(stamp, nil, 0o644)
}

func (a apt) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
		}
		return "", fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// lockFile waits until no other process has the lock. It ends when the file is closed.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
		}
	}
}
